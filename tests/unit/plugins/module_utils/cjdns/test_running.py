# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy
import time

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, running

KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
LINK = {
    "addr": f"v22.0000.0000.0000.0013.{KEY}",
    "lladdr": "192.0.2.1:1",
    "state": "ESTABLISHED",
    "ifNum": 0,
    "isIncoming": 0,
    "user": "vps",
}


class Files:
    """The files of a node whose daemon has what its configuration says."""

    def __init__(self, folder, port):
        self.path, self.started = folder / "cjdroute.conf", folder / "started.conf"
        self.config = {
            "authorizedPasswords": [{"user": "pi", "password": "pi-secret"}],
            "admin": {"bind": f"127.0.0.1:{port}", "password": "admin-secret"},
            "interfaces": {
                "UDPInterface": [
                    {"bind": "0.0.0.0:1", "connectTo": {"192.0.2.1:1": {"publicKey": KEY, "password": "vps-secret", "peerName": "vps"}}}
                ]
            },
        }
        self.save(self.config, self.path, self.started)

    def save(self, config, *paths):
        for path in paths:
            path.write_text(conf.dump(config))

    def pending(self):
        reasons = running.observe(str(self.path), str(self.started)).pending
        assert not any(secret in str(reasons) for secret in ("pi-secret", "admin-secret", "vps-secret"))
        return reasons


@pytest.fixture
def answers(daemon):
    """What the daemon answers: it has the link, and lets pi in."""
    answers = {
        "InterfaceController_peerStats": {"peers": [LINK], "total": 1},
        "AuthorizedPasswords_list": {"users": ["Local Peers", "pi"], "total": 2},
        "InterfaceController_interfaces": {"ifaces": [{"ifNum": 0, "name": "UDP/IPv4/0.0.0.0:1"}]},
    }
    daemon.script = lambda request: answers.get((request["aq"] if request["q"] == b"auth" else request["q"]).decode(), {})
    return answers


@pytest.fixture
def node(tmp_path, daemon, answers):
    return Files(tmp_path, daemon.port)


def test_a_daemon_that_has_all_is_asked_little_and_lacks_nothing(node, daemon):
    assert node.pending() == []
    assert sorted(daemon.functions()) == ["AuthorizedPasswords_list", "InterfaceController_peerStats"]


def test_only_a_link_that_lives_counts_as_one(node, answers):
    assert running.observe(str(node.path), str(node.started)).established == [KEY]
    answers["InterfaceController_peerStats"] = {"peers": [{**LINK, "state": "UNRESPONSIVE"}], "total": 1}
    assert running.observe(str(node.path), str(node.started)) == ([], [])


def test_a_peer_that_was_taken_out_of_the_running_daemon_is_missed(node, answers):
    answers["InterfaceController_peerStats"] = {"peers": [], "total": 0}
    assert node.pending() == ["cjdns is yet to dial vps at 192.0.2.1:1"]


def test_a_user_that_was_taken_out_of_the_running_daemon_is_missed(node, answers):
    answers["AuthorizedPasswords_list"] = {"users": [], "total": 0}
    assert node.pending() == ["cjdns is yet to accept pi"]


def test_a_changed_password_has_to_be_told_to_the_daemon(node):
    changed = copy.deepcopy(node.config)
    changed["authorizedPasswords"][0]["password"] = "pi-secret-2"
    node.save(changed, node.path)
    assert node.pending() == ["cjdns is yet to stop accepting pi", "cjdns is yet to accept pi"]


def test_what_only_a_restart_changes_is_said_without_asking_the_daemon(node, daemon):
    node.save({**node.config, "router": {"supernodes": []}}, node.path)
    assert node.pending() == ["cjdns has to be restarted: router cannot be changed while cjdns runs"]
    node.started.unlink()
    assert "it is not known what the running cjdns was started with" in node.pending()[0]
    assert daemon.requests == []


def test_peers_that_need_an_interface_that_the_daemon_lacks_need_a_restart(node, answers):
    answers["InterfaceController_peerStats"] = {"peers": [], "total": 0}
    answers["InterfaceController_interfaces"] = {"ifaces": []}
    assert node.pending()[0].startswith("cjdns has to be restarted: interface 0 of the running cjdns is not there")


@pytest.mark.parametrize("answer", [None, {"error": "no"}, {"peers": "none"}, {"peers": [], "more": 1, "total": 0}])
def test_a_daemon_that_does_not_answer_well_is_a_reason_soon(node, answers, answer, monkeypatch):
    monkeypatch.setattr(running, "LOOK_TIMEOUT_S", 0.2)
    answers["InterfaceController_peerStats"] = answer
    before = time.monotonic()
    assert node.pending()
    assert time.monotonic() - before < 5


def test_a_daemon_that_does_not_run_is_a_reason(node):
    gone = copy.deepcopy(node.config)
    gone["admin"]["bind"] = f"127.0.0.1:{cjdroutes.free_port()}"
    node.save(gone, node.path, node.started)
    assert node.pending()[0].startswith("cjdns could not be asked what it has: ")


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b'{"admin": 1}', b'{"interfaces": [], "authorizedPasswords": 1}'])
def test_a_file_that_is_none_is_a_reason_and_no_exception(node, content):
    for path in (node.path, node.started):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    assert node.pending()
