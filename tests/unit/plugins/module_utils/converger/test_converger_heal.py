# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is done for an agent that has lost the others."""

from __future__ import annotations

import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import heal

SERVER = {"role": "consul"}
CLIENT = {"role": "node"}


def member(name, status=1, tags=None):
    return {"Name": name, "Addr": f"fc00::{name[1:]}", "Status": status, "Tags": tags or CLIENT}


def record(name, **fields):
    return {"state": "member", "address": f"fc00::{name[1:]}", "server_eligible": True, **fields}


OTHERS = ["fc00::2", "fc00::3"]


@pytest.mark.parametrize(
    ("members", "lost"),
    [
        ([member("n1", tags=SERVER)], OTHERS),  # alone
        ([member("n1", tags=SERVER), member("n2", 4), member("n3", 3)], OTHERS),  # alone with memories
        ([member("n1"), member("n2")], ["fc00::3"]),  # none of them a server
        ([member("n1"), member("n2", tags=SERVER), member("n3")], []),
        ([member("n1"), member("n2", tags=SERVER), member("n3", 4)], []),  # gossip itself still tries
        ([member("n1"), member("n2", tags=SERVER), member("n3", 3)], ["fc00::3"]),  # it was given up
        ([member("n1"), member("n2", tags=SERVER)], ["fc00::3"]),  # it was forgotten
        ([member("n1", tags=SERVER), member("n2"), member("n3")], []),  # the only server
        ([member("n1"), member("n2", tags=None), member("n3")], []),
    ],
)
def test_whom_an_agent_is_to_join(members, lost):
    assert heal.lost(members, "n1", OTHERS) == lost


def test_those_that_may_be_servers_are_joined_first_and_none_that_left():
    registry = {
        "n1": record("n1"),
        "n2": record("n2", server_eligible=False),
        "n3": record("n3"),
        "n4": record("n4", state="left"),
        "n5": record("n5", state="revoked"),
        "n6": {"state": "member"},
        "n7": "damaged",
        "n8": record("n8", address="nonsense"),
    }
    assert heal.addresses(registry, "n1") == ["fc00::3", "fc00::2"]


@pytest.fixture
def registry(tmp_path):
    """A function that writes the registry of these agents."""

    def write(*agents):
        found = {agent.name: {"state": "member", "address": agent.address, "server_eligible": True} for agent in agents}
        (tmp_path / "registry.json").write_text(json.dumps(found))
        return str(tmp_path / "registry.json")

    return write


def test_islands_that_have_forgotten_each_other_are_joined_again(agents, registry, wait_for):
    one, two, three = agents("c1", bootstrap_expect=1), agents("c2"), agents("c3", server=False)
    gone = agents("c4")
    for agent in (one, two, three):
        agent.start()
        wait_for(agent.alive)
    two.client.put(f"/v1/agent/join/{three.address}")
    wait_for(lambda: two.alive() == {"c2", "c3"})
    said = []
    path = registry(one, two, three, gone)
    assert heal.rejoin(one.addr, "c1", path, said.append) == [two.address]
    wait_for(lambda: all(agent.alive() == {"c1", "c2", "c3"} for agent in (one, two, three)))
    assert said == [f"joined the Consul agent at {two.address}, which this node's had lost"]
    assert heal.rejoin(one.addr, "c1", path, said.append) == []
    assert len(said) == 1


def test_an_agent_that_is_alone_tries_until_one_lets_it_in(agents, registry, wait_for):
    alone, deaf, other = agents("c1", server=False), agents("c2", encrypt="MTIzNDU2Nzg5MDEyMzQ1Ng=="), agents("c3", server=False)
    for agent in (alone, deaf, other):
        agent.start()
        wait_for(agent.alive)
    assert heal.rejoin(alone.addr, "c1", registry(alone, deaf, other), str) == [other.address]
    wait_for(lambda: alone.alive() == {"c1", "c3"})


def test_without_an_agent_or_a_registry_nothing_is_done(agents, registry, wait_for, tmp_path):
    agent, said = agents("c1"), []
    assert heal.rejoin(agent.addr, "c1", registry(agent), said.append) == []
    assert "does not tell whom it sees" in said[0]
    agent.start()
    wait_for(agent.alive)
    assert heal.rejoin(agent.addr, "c1", str(tmp_path / "none.json"), said.append) == []
    assert said[1].startswith("there is nobody to join: ")
