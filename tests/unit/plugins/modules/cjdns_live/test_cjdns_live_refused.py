# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What cannot be compared, and daemons that refuse."""

from __future__ import annotations

import copy
import time

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_live

SECRET = "a-secret-that-nobody-may-see"
KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"


class Offline:
    """The files of a node, and a daemon of which a test chooses every word."""

    def __init__(self, folder, port):
        vps = {"publicKey": KEY, "password": "vps-secret", "peerName": "vps"}
        self.wished = {
            "authorizedPasswords": [{"user": "pi", "password": "pi-secret"}],
            "admin": {"bind": f"127.0.0.1:{port}", "password": "admin-secret"},
            "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:1", "connectTo": {"192.0.2.1:1": vps}}]},
        }
        self.node, self.started = self, folder / "started.conf"
        self.path, self.config = folder / "cjdroute.conf", copy.deepcopy(self.wished)
        self.save(self.started)
        self.save()

    def save(self, path=None):
        (path or self.path).write_text(conf.dump(self.wished))


@pytest.fixture
def daemon():
    """A daemon without links that lets pi in. `answers` holds other answers."""
    daemon = cjdroutes.ScriptedDaemon()
    daemon.answers = {
        "InterfaceController_peerStats": {"peers": [], "total": 0},
        "AuthorizedPasswords_list": {"users": ["Local Peers", "pi"], "total": 2},
        "InterfaceController_interfaces": {"ifaces": [{"ifNum": 0, "name": "UDP/IPv4/0.0.0.0:1"}]},
    }
    daemon.script = lambda request: daemon.answers.get((request["aq"] if request["q"] == b"auth" else request["q"]).decode(), {})
    yield daemon
    daemon.close()


@pytest.fixture
def offline(tmp_path, daemon):
    return Offline(tmp_path, daemon.port)


@pytest.mark.parametrize("state", ["inactive", "failed", "activating", "deactivating"])
def test_a_service_that_does_not_run_will_read_the_file(run, active, offline, daemon, state):
    active[0] = f"ActiveState={state}\n"
    offline.started.unlink()
    result = run(offline)
    assert (result["changed"], result["restart"], result["steps"], daemon.requests) == (False, False, [], [])


def test_a_daemon_that_was_just_started_is_given_time_to_read_its_configuration(run, active, offline, daemon, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append((seconds, daemon.functions()))

    monkeypatch.setattr(cjdns_live.time, "sleep", sleep)
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    active[0] = f"ActiveState=active\nActiveEnterTimestampMonotonic={int((now - 1) * 1e6)}\n"
    assert run(offline)["steps"] == ["dial vps at 192.0.2.1:1"]
    assert [(3 < seconds <= 4, asked) for seconds, asked in slept] == [(True, [])]
    active[0] = f"ActiveState=active\nActiveEnterTimestampMonotonic={int((now - 9) * 1e6)}\n"
    run(offline)
    assert slept[1][0] == 0


def test_a_systemctl_that_fails_is_told(run, offline, monkeypatch):
    monkeypatch.setattr(cjdns_live.AnsibleModule, "run_command", lambda _self, command: (1, "", "no bus"))
    assert run(offline, unit="mesh.service")["msg"] == "systemctl show mesh.service failed: no bus"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "it is not known what the running cjdns was started with"),
        (b"\xff", "it is not known what the running cjdns was started with"),
        (b"", "is not JSON with comments"),
        (b"[]", "is not JSON with comments"),
    ],
)
def test_without_a_copy_of_what_it_was_started_with_a_restart_is_needed(run, offline, daemon, content, reason):
    offline.started.unlink()
    if content is not None:
        offline.started.write_bytes(content)
    result = run(offline)
    assert (result["changed"], result["restart"], daemon.requests) == (False, True, [])
    assert reason in result["reason"]
    assert str(offline.started) in result["reason"]


def test_a_missing_configuration_is_told_and_foreseen_in_check_mode(run, offline):
    offline.path.unlink()
    assert "run vdloo.mesh.cjdns_config first" in run(offline)["msg"]
    assert run(offline, check=True)["restart"]


def test_a_file_that_only_cjdns_can_read_is_no_reason_to_restart_again_and_again(run, warnings, offline):
    for path in (offline.path, offline.started):
        path.write_text('{"admin": {} "router": {}}')
    result = run(offline)
    assert (result["changed"], result["restart"]) == (False, False)
    assert "is not JSON with comments, so it was not looked" in warnings[0]


def test_a_refused_step_asks_for_a_restart_and_tells_what_was_done(run, offline, daemon):
    offline.wished["authorizedPasswords"] = [{"user": "nas", "password": SECRET}]
    offline.save()
    daemon.answers["UDPInterface_beginConnection"] = {"error": f"no more space for {offline.wished['admin']['password']}"}
    result = run(offline)
    assert (result["changed"], result["restart"], result["steps"]) == (True, True, ["stop accepting pi", "accept nas"])
    assert "UDPInterface_beginConnection: the daemon refuses: no more space" in result["reason"]
    assert offline.started.read_text() != offline.path.read_text()
    # The next run, should the restart not come about, goes on from there.
    daemon.answers["UDPInterface_beginConnection"] = {}
    daemon.answers["AuthorizedPasswords_list"] = {"users": ["nas"]}
    result = run(offline)
    assert (result["restart"], result["steps"]) == (False, ["stop accepting nas", "accept nas", "dial vps at 192.0.2.1:1"])
    assert offline.started.read_text() == offline.path.read_text()


def test_a_daemon_that_is_slow_to_answer_is_not_restarted_when_nothing_has_changed(run, warnings, offline, daemon):
    daemon.script = lambda request: None
    result = run(offline, timeout=0.05)
    assert (result["changed"], result["restart"]) == (False, False)
    assert "no reply within 0.05 s, 3 times" in warnings[0]
    offline.wished["authorizedPasswords"] = []
    offline.save()
    result = run(offline, timeout=0.05)
    assert (result["changed"], result["restart"]) == (False, True)
    assert "no reply within 0.05 s, 3 times" in result["reason"]


def test_a_daemon_too_old_to_tell_its_interfaces_numbers_them_as_the_file_does(run, offline, daemon):
    daemon.answers["InterfaceController_interfaces"] = {"error": "No functions matched your request, try ..."}
    assert run(offline)["steps"] == ["dial vps at 192.0.2.1:1"]
    dialled = [cjdroutes.double.bdecode(data) for data in daemon.requests if b"beginConnection" in data]
    assert [request["args"]["interfaceNumber"] for request in dialled] == [0]


def test_a_daemon_with_other_interfaces_than_the_file_needs_a_restart(run, offline, daemon):
    daemon.answers["InterfaceController_interfaces"] = {"ifaces": [{"ifNum": 0, "name": "UDP/IPv4/0.0.0.0:9"}]}
    result = run(offline)
    assert (result["restart"], result["reason"]) == (True, "interface 0 of the running cjdns is 0.0.0.0:9, not 0.0.0.0:1")
    assert "UDPInterface_beginConnection" not in daemon.functions()


def test_every_link_of_a_key_is_dropped_where_one_call_drops_one(run, offline, daemon):
    address = "v22.0000.0000.0000.00{}5." + KEY
    links = [{"addr": address.format(slot), "lladdr": "192.0.2.1:1", "state": "INIT", "ifNum": 0, "user": "vps"} for slot in (1, 2)]
    daemon.answers["InterfaceController_peerStats"] = {"peers": links}
    daemon.answers["InterfaceController_disconnectPeer"] = {"success": 1}
    offline.wished["interfaces"]["UDPInterface"][0]["connectTo"] = {}
    offline.save()
    assert run(offline)["steps"] == ["disconnect vps"]
    assert daemon.functions().count("InterfaceController_disconnectPeer") == 2


def test_a_daemon_that_ended_meanwhile_is_told_and_left_alone(run, offline, daemon, monkeypatch):
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    starts = iter([now - 1, now + 3])
    monkeypatch.setattr(cjdns_live.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(
        cjdns_live.AnsibleModule,
        "run_command",
        lambda _self, _command: (0, f"ActiveState=active\nActiveEnterTimestampMonotonic={int(next(starts) * 1e6)}\n", ""),
    )
    result = run(offline)
    assert (result["running"], result["changed"], result["restart"], daemon.requests) == (False, False, False, [])
