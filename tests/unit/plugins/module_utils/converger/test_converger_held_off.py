# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules that keep the nodes from converging, those that keep others from being sent to a node, and the one that waits until
they are, with real agents."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import lock
from ansible_collections.vdloo.mesh.plugins.modules import consul_maintenance, mesh_lock, wait_for_service


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


# ---------------------------------------------------------------- one service of a node

WEB = b'{"Name": "web", "Port": 80}'
DRAINED = "/v1/kv/vdloo-mesh/v1/drained/web/"


@pytest.fixture
def clean(agent):
    """The agent, with no service and no maintenance of another test."""
    for name in agent.client.get("/v1/agent/services").value:
        agent.client.put("/v1/agent/service/deregister/" + urllib.parse.quote(name, safe=""))
    agent.client.put("/v1/agent/maintenance", b"", {"enable": "false"})
    return agent


@pytest.fixture
def pair(agents, wait_for):
    """Two agents of one mesh, each with an instance of the service web that is healthy."""
    one = agents("n1", bootstrap_expect=1)
    two = agents("n2", server=False, retry_join=[one.address], retry_interval="1s")
    for agent in (one, two):
        agent.start()
    wait_for(one.leader, 30)
    wait_for(lambda: two.alive() == {"n1", "n2"} and two.leader(), 30)
    for agent in (one, two):
        agent.client.put("/v1/agent/service/register", WEB)
    wait_for(lambda: served(one) == ["n1", "n2"], 30)
    return one, two


def served(agent) -> list[str]:
    return sorted(entry["Node"]["Node"] for entry in agent.client.get("/v1/health/service/web", {"passing": ""}).value)


def is_kept(agent, node: str) -> bool:
    return agent.client.request("GET", DRAINED + node)[0] == 200


def test_one_service_in_maintenance_takes_no_other_of_its_node_along(run, clean, wait_for):
    for name in ("web", "other"):
        clean.client.put("/v1/agent/service/register", b'{"Name": "%s", "Port": 80}' % name.encode())
    assert run(consul_maintenance, enabled=True, service="web", drain=0, _ansible_check_mode=True)["changed"]
    wait_for(lambda: passing(clean) == ["web"])
    assert run(consul_maintenance, enabled=True, service="web", drain=0)["changed"]
    wait_for(lambda: passing(clean) == [])
    assert [entry["Service"]["ID"] for entry in clean.client.get("/v1/health/service/other", {"passing": ""}).value] == ["other"]
    assert not run(consul_maintenance, enabled=True, service="web", drain=0)["changed"]
    assert not run(consul_maintenance, enabled=False)["changed"]
    assert run(consul_maintenance, enabled=False, service="web")["changed"]
    wait_for(lambda: passing(clean) == ["web"])


def test_all_instances_of_the_service_on_the_node_are_drained_whatever_they_are_called(run, clean, wait_for):
    for number in ("1", "a/b c%2F"):
        clean.client.put("/v1/agent/service/register", json.dumps({"Name": "web", "ID": f"web {number}", "Port": 80}).encode())
    wait_for(lambda: len(passing(clean)) == 2)
    told = run(consul_maintenance, enabled=True, service="web", drain=0)
    assert (told["changed"], told["instances"]) == (True, ["web 1", "web a/b c%2F"])
    wait_for(lambda: passing(clean) == [])
    run(consul_maintenance, enabled=False, service="web")
    wait_for(lambda: len(passing(clean)) == 2)


def test_a_service_that_the_operator_put_into_maintenance_stays_there(run, clean):
    clean.client.put("/v1/agent/service/register", WEB)
    clean.client.put("/v1/agent/service/maintenance/web", b"", {"enable": "true", "reason": "by hand"})
    assert not run(consul_maintenance, enabled=True, service="web")["changed"]
    assert not run(consul_maintenance, enabled=False, service="web")["changed"]
    assert "_service_maintenance:web" in clean.client.get("/v1/agent/checks").value


def test_a_service_that_is_not_registered_has_nothing_to_drain(run, clean):
    told = run(consul_maintenance, enabled=True, service="web", others=1)
    assert (told["changed"], told["problem"], told["instances"]) == (False, "", [])


def test_that_a_service_is_drained_is_kept_until_it_is_not(run, clean):
    clean.client.put("/v1/agent/service/register", WEB)
    run(consul_maintenance, enabled=True, service="web", remember=True, drain=0, _ansible_check_mode=True)
    assert not is_kept(clean, "c1")
    run(consul_maintenance, enabled=True, service="web", remember=True, drain=0)
    assert is_kept(clean, "c1")
    # As a service does that is restarted.
    clean.client.put("/v1/agent/service/deregister/web")
    assert is_kept(clean, "c1")
    assert not run(consul_maintenance, enabled=False, service="web", remember=True)["changed"]
    assert not is_kept(clean, "c1")


def test_the_last_healthy_instance_is_not_drained(run, clean, wait_for):
    clean.client.put("/v1/agent/service/register", WEB)
    wait_for(lambda: passing(clean) == ["web"])
    for check_mode in (True, False):
        told = run(consul_maintenance, enabled=True, service="web", others=1, remember=True, _ansible_check_mode=check_mode)
        assert told["msg"] == "web on c1 is not drained, as the other nodes cannot do without it: it is registered on no other node"
    assert passing(clean) == ["web"]
    assert not is_kept(clean, "c1")


def test_the_last_instance_is_drained_when_nobody_is_sent_to_it_anyway(run, clean, wait_for):
    ailing = {"Name": "web", "Port": 80, "Check": {"TTL": "1h", "Status": "critical"}}
    clean.client.put("/v1/agent/service/register", json.dumps(ailing).encode())
    wait_for(lambda: clean.client.get("/v1/health/service/web").value)
    assert run(consul_maintenance, enabled=True, service="web", others=1, drain=0)["changed"]


def test_an_instance_is_drained_while_there_is_another_one_and_the_other_one_is_not_then(run, pair, wait_for):
    one, two = pair
    assert run(consul_maintenance, consul_addr=one.addr, enabled=True, service="web", others=1, remember=True, drain=0)["changed"]
    assert served(one) == ["n2"]
    told = run(consul_maintenance, consul_addr=two.addr, enabled=True, service="web", others=1, remember=True, drain=0)
    assert "1 healthy instance of web wanted, 0 there. Not healthy: n1: in maintenance (vdloo-mesh: vdloo.mesh)" in told["msg"]
    assert (served(one), is_kept(one, "n1"), is_kept(one, "n2")) == (["n2"], True, False)


def test_of_two_who_drain_the_last_two_at_the_same_time_at_most_one_gets_it(pair, wait_for):
    """Not through the module, as two of them in one process share their output."""
    refused, drained = [], []

    def drain(agent):
        options = {"service": "web", "enabled": True, "others": 1, "reason": "test", "remember": True}
        try:
            consul_maintenance.apply(agent.client, options, False)
            drained.append(agent.name)
        except consul_maintenance.RefusedError:
            refused.append(agent.name)

    for _round in range(5):
        threads = [threading.Thread(target=drain, args=(agent,)) for agent in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(drained) <= 1 and len(refused) + len(drained) == 2
        for agent in pair:
            assert is_kept(agent, agent.name) == (agent.name in drained)
            consul_maintenance.apply(agent.client, {"service": "web", "enabled": False, "reason": "", "remember": True}, False)
        wait_for(lambda: served(pair[0]) == ["n1", "n2"])
        refused.clear()
        drained.clear()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"service": "a_b"}, "service: 'a_b' is no name of a service"),
        ({"others": 1}, "others and remember are about a service"),
        ({"remember": True}, "others and remember are about a service"),
        ({"service": "web", "others": -1}, "others: -1 is below 0"),
    ],
)
def test_bad_input_about_a_service_is_refused(run, options, told):
    assert told in run(consul_maintenance, enabled=True, **options)["msg"]


# ---------------------------------------------------------------- other locks


def test_a_lock_of_another_name_keeps_nobody_from_converging(run, agent):
    assert run(mesh_lock, name="rolling-web", holder="rolling of ann")["changed"]
    take(agent, "n1").release()
    told = run(mesh_lock, name="rolling-web", holder="rolling of bob", wait=1)
    assert "rolling of ann has the lock since" in told["msg"]
    assert "`consul kv delete vdloo-mesh/v1/lock/rolling-web`" in told["msg"]
    assert run(mesh_lock, name="rolling-web", holder="rolling of ann", state="free")["changed"]
    assert run(mesh_lock, name="rolling-web", holder="rolling of bob")["changed"]
    assert "is no name of a lock" in run(mesh_lock, name="a/b", holder="rolling of bob")["msg"]


# ---------------------------------------------------------------- waiting for a service


def test_an_instance_is_waited_for_until_its_check_passes(run, clean):
    service = {"Name": "web", "Port": 80, "Check": {"CheckID": "alive", "Name": "alive", "TTL": "1h", "Status": "warning"}}
    clean.client.put("/v1/agent/service/register", json.dumps(service).encode())
    assert "check 'alive' is warning" in run(wait_for_service, name="web", timeout=2)["msg"]
    turned = []

    def turn():
        # Before it: who waits may hear of it first.
        turned.append(time.monotonic())
        clean.client.put("/v1/agent/check/pass/alive")

    threading.Timer(2, turn).start()
    told = run(wait_for_service, name="web", timeout=60)
    assert not told.get("failed") and time.monotonic() - turned[0] < 10
    assert [check["status"] for check in told["instances"][0]["checks"] if check["id"] == "alive"] == ["passing"]


def test_a_service_that_is_registered_only_later_is_waited_for(run, clean):
    threading.Timer(2, lambda: clean.client.put("/v1/agent/service/register", WEB)).start()
    told = run(wait_for_service, name="web", timeout=60)
    assert not told.get("failed") and 1 < told["waited"] < 5


def test_a_service_in_maintenance_is_not_healthy_and_the_reason_is_told(run, clean, wait_for):
    clean.client.put("/v1/agent/service/register", WEB)
    run(consul_maintenance, enabled=True, service="web", drain=0, reason="new disk")
    wait_for(lambda: passing(clean) == [])
    assert "c1: in maintenance (vdloo-mesh: new disk)" in run(wait_for_service, name="web", timeout=1)["msg"]
    assert not run(wait_for_service, name="web", timeout=1, in_maintenance=True).get("failed")


def test_an_agent_that_restarts_meanwhile_is_asked_again(run, pair):
    one, two = pair
    service = {"Name": "late", "Port": 80}
    two.stop()
    threading.Timer(2, two.start).start()
    threading.Timer(9, lambda: one.client.put("/v1/agent/service/register", json.dumps(service).encode())).start()
    told = run(wait_for_service, consul_addr=two.addr, name="late", timeout=60)
    assert not told.get("failed") and [one["node"] for one in told["instances"]] == ["n1"]


def test_the_instance_of_a_node_that_died_does_not_count(run, pair):
    one, two = pair
    two.stop()
    told = run(wait_for_service, consul_addr=one.addr, name="web", node="n1", timeout=5)
    assert not told.get("failed")
    # Until the others have noticed, it is alive for them.
    deadline = time.monotonic() + 30
    while "n2" in one.alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "n2: its node is not alive for the others" in run(wait_for_service, consul_addr=one.addr, name="web", count=2, timeout=2)["msg"]
