# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import cjdroutes
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import admin
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_info


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Three of them: one dials two, and dials a dead port with the key of three; three dials nobody."""
    with cjdroutes.running(tmp_path_factory.mktemp("nodes"), "one", "two", "three", change=wire) as started:
        one, two, _three = started
        assert cjdroutes.wait_until(lambda: one.state_of(two) == ["ESTABLISHED"], 20)
        yield started


def wire(one, two, three):
    one.dial(two)
    one.dial(three, port=cjdroutes.free_port())


def run(capsys, check=False, **options):
    with patch_module_args({**options, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        cjdns_info.main()
    return json.loads(capsys.readouterr().out)


def test_everything_is_told_with_what_the_configuration_holds(capsys, nodes):
    one, two, three = nodes
    result = run(capsys, config_path=str(one.path))
    assert result["changed"] is False
    assert (result["node"]["public_key"], result["node"]["version"]) == (one.key, 22)
    assert [interface["bind"] for interface in result["interfaces"]] == [f"0.0.0.0:{one.port}"]
    assert result["users"] == ["Local Peers", "friend-of-one"]
    live = {peer["public_key"]: (peer["live"], peer["user"]) for peer in result["peers"]}
    assert live == {two.key: (True, "two"), three.key: (False, "three")}
    assert (result["peers_up"], result["peers_known"], result["unreadable"]) == (1, 2, [])
    assert result["peers"] == sorted(result["peers"], key=lambda peer: peer["public_key"])


def test_check_mode_tells_the_same(capsys, nodes):
    assert run(capsys, check=True, config_path=str(nodes[0].path))["peers_up"] == 1


def test_without_a_password_what_needs_one_is_null(capsys, nodes, tmp_path):
    result = run(capsys, config_path=str(tmp_path / "none"), admin_port=nodes[1].admin_port)
    assert (result["interfaces"], result["users"]) == (None, None)
    assert (result["node"]["public_key"], result["peers_up"]) == (nodes[1].key, 1)


def test_a_wrong_password_is_told(capsys, nodes):
    result = run(capsys, config_path=str(nodes[0].path), admin_password="wrong-one")
    assert result["failed"]
    assert "Auth failed. The admin password is not that of the daemon" in result["msg"]
    assert "journalctl" not in result["msg"]
    assert "wrong-one" not in json.dumps(result["msg"])


def test_a_daemon_that_is_down_is_told_with_what_to_look_at(capsys, tmp_path):
    port = cjdroutes.free_port()
    result = run(capsys, config_path=str(tmp_path / "none"), admin_port=port, unit="mesh.service", timeout=0.2)
    assert result["failed"]
    assert f"cjdns at 127.0.0.1:{port}" in result["msg"]
    assert "journalctl --unit mesh.service" in result["msg"]


def test_a_configuration_that_cannot_be_read_is_told(capsys, tmp_path):
    path = tmp_path / "cjdroute.conf"
    path.write_text("{")
    result = run(capsys, config_path=str(path))
    assert result["failed"]
    assert f"{path} does not tell where the admin interface is" in result["msg"]


def test_a_link_lives_while_it_is_established_and_heard_of():
    link = {"state": "ESTABLISHED", "silent_ms": admin.LIVE_SILENCE_MS}
    assert cjdns_info.with_life(link)["live"]
    assert not cjdns_info.with_life({**link, "silent_ms": admin.LIVE_SILENCE_MS + 1})["live"]
    assert not cjdns_info.with_life({**link, "state": "UNRESPONSIVE"})["live"]


class OldDaemon(admin.Client):
    """Release 20, as far as it differs."""

    def node(self):
        return {"address": "fc00::1", "public_key": "k", "version": 20}

    def peers(self):
        link = {"public_key": "k2", "state": "ESTABLISHED", "silent_ms": 0}
        return [link, {**link, "state": "UNRESPONSIVE"}, {**link, "public_key": "k3", "silent_ms": 99_999}]

    def users(self):
        return ["a"]

    def interfaces(self):
        raise admin.AdminError("no", self.words)


def test_a_daemon_too_old_to_tell_its_interfaces_is_still_told():
    daemon = OldDaemon(password="s")
    daemon.dropped, daemon.words = ["peer 'x' was left out: odd"], "No functions matched your request, try Admin_availableFunctions()"
    result = cjdns_info.gather(daemon)
    assert (result["interfaces"], result["users"], result["unreadable"]) == (None, ["a"], ["peer 'x' was left out: odd"])
    assert (result["peers_up"], result["peers_known"]) == (1, 2)
    daemon.words = "Auth failed."
    with pytest.raises(admin.AdminError):
        cjdns_info.gather(daemon)
