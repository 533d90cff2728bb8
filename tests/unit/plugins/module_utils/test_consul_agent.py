# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import ports
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent
from hypothesis import given
from hypothesis import strategies as st


def server(name, healthy=True, voter=True):
    return {"Name": name, "Healthy": healthy, "Voter": voter, "Address": f"[fc00::{name}]:8300"}


def test_a_mesh_that_tolerates_a_loss_may_restart_one_server():
    assert agent.restart_risk({"FailureTolerance": 1, "Servers": [server(n) for n in "abc"]}) == ""


def test_an_unhealthy_voter_is_named():
    health = {"FailureTolerance": 0, "Servers": [server("a"), server("b", healthy=False), server("c")]}
    assert agent.restart_risk(health) == "unhealthy: b"


def test_a_dead_server_without_a_vote_is_no_risk():
    health = {"FailureTolerance": 1, "Servers": [server("a"), server("b"), server("c"), server("", healthy=False, voter=False)]}
    assert agent.restart_risk(health) == ""


@pytest.mark.parametrize("names", ["a", "ab"])
def test_one_or_two_voters_can_only_be_restarted_with_a_pause(names):
    assert agent.restart_risk({"FailureTolerance": 0, "Servers": [server(name) for name in names]}) == ""


@given(st.lists(st.booleans(), min_size=3, max_size=9))
def test_more_voters_are_never_restarted_when_that_would_cost_the_quorum(alive):
    quorum = len(alive) // 2 + 1
    health = {"FailureTolerance": max(sum(alive) - quorum, 0), "Servers": [server(str(i), healthy=up) for i, up in enumerate(alive)]}
    if agent.restart_risk(health) == "":
        assert sum(alive) - 1 >= quorum


def autopilot(well, ill=""):
    """The health of a mesh with these voters, tolerance included."""
    servers = [server(name) for name in well] + [server(name, healthy=False) for name in ill]
    return {"FailureTolerance": max(len(well) - (len(servers) // 2 + 1), 0), "Servers": servers}


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.sets(st.integers(0, 10)))
def test_a_server_gives_up_its_vote_only_when_the_others_have_a_quorum(alive, wanted):
    well, ill = ("".join(str(i) for i, up in enumerate(alive) if up is state) for state in (True, False))
    names = {str(number) for number in wanted}
    if agent.demotion_risk(autopilot(well, ill), "0", names) == "":
        others = alive[1:]
        assert sum(others) > len(others) / 2
        assert names - {"0"} <= {str(i) for i in range(1, len(alive))}


@pytest.mark.parametrize("servers", [None, []])
def test_a_new_leader_that_knows_of_no_server_yet_allows_nothing(servers):
    health = {"Healthy": True, "FailureTolerance": 0, "Servers": servers}
    assert agent.restart_risk(health) == agent.demotion_risk(health, "a", set()) == agent.NOT_TOLD


def test_a_mesh_that_wants_fewer_voters_gets_them():
    assert agent.demotion_risk(autopilot("abc"), "c", {"a"}) == ""
    assert agent.demotion_risk(autopilot("ab"), "b", {"a"}) == ""
    assert agent.demotion_risk(autopilot("abc"), "c", set()) == "the other 2 voters would tolerate no failure"
    assert agent.demotion_risk(autopilot("abcd"), "d", set()) == ""


def test_a_server_without_a_vote_may_go_at_any_time():
    assert agent.demotion_risk(autopilot("a", ill="bc"), "d", {"x"}) == ""


def test_an_ill_server_may_go_when_the_others_are_well():
    assert agent.demotion_risk(autopilot("abc", ill="d"), "d", {"a", "b", "c"}) == ""


def test_a_server_is_back_when_it_votes_and_the_mesh_tolerates_a_loss():
    assert agent.return_lack(autopilot("abc"), {"c", "d", "e"}) == "no vote yet: d, e"
    assert agent.return_lack(autopilot("abc", ill="d"), {"c"}) == "unhealthy: d"
    assert agent.return_lack(autopilot("abc"), {"c"}) == ""
    assert agent.healthy_voters(autopilot("ab", ill="c")) == {"a", "b"}


def leaving(fake_agent, status):
    usual = fake_agent.answer
    fake_agent.answer = lambda method, path: (status, "refused") if (method, path) == ("PUT", "/v1/agent/leave") else usual(method, path)


def test_an_agent_is_asked_to_leave(fake_agent):
    leaving(fake_agent, 200)
    agent.Agent(fake_agent.port).leave(1)


def test_an_agent_that_refuses_to_leave_is_an_error(fake_agent):
    leaving(fake_agent, 500)
    with pytest.raises(agent.AgentError, match="agent/leave: 500 refused"):
        agent.Agent(fake_agent.port).leave(1)


def test_an_agent_that_ends_before_it_answers_has_left():
    agent.Agent(1).leave(1)


def test_the_agent_describes_itself(fake_agent):
    fake_agent.bootstrap_expect = 3
    assert agent.Agent(fake_agent.port).describe() == {
        "node": "web-1",
        "datacenter": "mesh",
        "server": True,
        "version": "1.8.7",
        "address": "fc00::1",
        "bootstrap_expect": 3,
        "leader": "[fc00::1]:8300",
    }


def test_an_agent_on_another_port_than_the_configuration_says_is_found(fake_agent, monkeypatch):
    owners = {fake_agent.port: 999, 1: 999, 8500: 0}
    listeners = [ports.Listener("tcp", "127.0.0.1", port, str(port), uid) for port, uid in owners.items()]
    monkeypatch.setattr(ports, "listeners", lambda _protocols: listeners)
    port, who = agent.find(999, 8500)
    assert (port, who["node"]) == (fake_agent.port, "web-1")
    assert agent.find(998, 8500) == (8500, {})


def test_an_agent_that_is_not_there_is_an_error_that_names_the_call():
    with pytest.raises(agent.AgentError, match=r"GET http://127\.0\.0\.1:1/v1/status/leader"):
        agent.Agent(1).leader()


def test_an_error_of_the_agent_is_passed_on(fake_agent):
    fake_agent.leader = ""
    with pytest.raises(agent.AgentError, match="500 No cluster leader"):
        agent.Agent(fake_agent.port).raft_servers()


def test_no_proxy_stands_between_a_node_and_its_agent(fake_agent, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert agent.Agent(fake_agent.port).leader() == "[fc00::1]:8300"
