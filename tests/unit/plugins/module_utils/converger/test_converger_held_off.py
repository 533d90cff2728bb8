# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules that keep the nodes from converging, and others from being sent to a node, with a real agent."""

from __future__ import annotations

import json
import threading

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import lock
from ansible_collections.vdloo.mesh.plugins.modules import consul_maintenance, mesh_lock


@pytest.fixture
def run(agent, capsys):
    """run(module, options) is what the module says."""

    def run(module, **options):
        with patch_module_args({"consul_addr": agent.addr, **options}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return run


def take(agent, name: str) -> lock.Lock:
    held = lock.Lock(agent.addr, {"node": name, "pid": 1, "since": "now", "reason": "timer"}, 10)
    held.take(threading.Event())
    return held


def test_while_it_is_held_no_node_converges_and_afterwards_at_once(run, agent):
    assert run(mesh_lock, holder="leave of n3")["changed"]
    with pytest.raises(lock.Held, match="leave of n3 has the lock"):
        take(agent, "n1")
    assert run(mesh_lock, holder="leave of n3", state="free")["changed"]
    take(agent, "n1").release()
    assert not run(mesh_lock, holder="leave of n3", state="free")["changed"]


def test_the_lock_of_a_command_that_broke_off_is_taken_over_by_the_same_command(run, agent):
    run(mesh_lock, holder="leave of n3")
    session = lock.look(agent.client)[1]
    assert run(mesh_lock, holder="leave of n3")["changed"]
    assert lock.look(agent.client)[1] not in ("", session)


def test_a_node_that_converges_is_waited_for_and_named_when_it_goes_on(run, agent):
    held = take(agent, "n1")
    told = run(mesh_lock, holder="leave of n3", wait=1)
    assert "n1 has the lock since now and did not give it back within 1 s" in told["msg"]
    assert lock.look(agent.client)[0]["node"] == "n1"
    threading.Timer(1.5, held.release).start()
    assert run(mesh_lock, holder="leave of n3", wait=20)["waited"] == "n1"


def test_only_its_own_lock_is_given_back(run, agent):
    held = take(agent, "n1")
    assert not run(mesh_lock, holder="leave of n3", state="free")["changed"]
    assert held.lost() == ""
    held.release()


@pytest.mark.parametrize(
    ("options", "told"), [({"holder": "n3"}, "may be the name of a node"), ({"holder": "a b", "ttl": 5}, "none that Consul takes")]
)
def test_bad_input_is_refused(run, options, told):
    assert told in run(mesh_lock, **options)["msg"]


def test_check_mode_takes_nothing(run, agent):
    assert not run(mesh_lock, holder="leave of n3", _ansible_check_mode=True)["changed"]
    assert lock.look(agent.client) == ({}, "")


def passing(agent) -> list[str]:
    return [entry["Service"]["ID"] for entry in agent.client.get("/v1/health/service/web", {"passing": ""}).value]


def test_nobody_is_sent_to_a_node_in_maintenance_until_it_ends(run, agent, wait_for):
    agent.client.put("/v1/agent/service/register", b'{"Name": "web", "Port": 80}')
    wait_for(lambda: passing(agent) == ["web"])
    assert run(consul_maintenance, enabled=True, drain=0, _ansible_check_mode=True)["changed"]
    assert passing(agent) == ["web"]
    assert run(consul_maintenance, enabled=True, drain=0)["changed"]
    wait_for(lambda: passing(agent) == [])
    assert not run(consul_maintenance, enabled=True, drain=0)["changed"]
    assert run(consul_maintenance, enabled=False)["changed"]
    wait_for(lambda: passing(agent) == ["web"])
    assert not run(consul_maintenance, enabled=False)["changed"]


def test_a_maintenance_of_the_operators_stays(run, agent):
    agent.client.put("/v1/agent/maintenance", b"", {"enable": "true", "reason": "new disk"})
    assert not run(consul_maintenance, enabled=True)["changed"]
    assert not run(consul_maintenance, enabled=False)["changed"]
    assert "_node_maintenance" in agent.client.get("/v1/agent/checks").value


def test_an_agent_that_does_not_run_serves_nobody(capsys):
    with patch_module_args({"consul_addr": "http://127.0.0.1:1", "enabled": True}), pytest.raises(SystemExit):
        consul_maintenance.main()
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["problem"] != "") == (False, True)
