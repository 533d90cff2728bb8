# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.plugin_utils import membership, plan
from planned import NODES, NOW, asked, converged, render


def leaving(*names, **changes):
    return asked(leaving=membership.Leaving(frozenset(names), **changes))


def test_the_plan_of_a_departure_tells_all_nodes_and_leaves_the_rest_for_the_next_plan():
    made = plan.make(converged(), leaving("n3"), render, NOW)
    assert {name: record["state"] for name, record in made["registry"].items()} == {"n1": "member", "n2": "member", "n3": "left"}
    assert (made["servers"], made["promotions"], made["keeper"]) == (["n1", "n2"], [], "n1")
    assert made["hosts"]["n3"]["drift"] == {"registry": ["the registry differs"]}
    assert all("registry" in made["hosts"][name]["drift"] for name in NODES)


def test_a_departure_that_would_cost_the_quorum_is_refused_and_that_of_a_dead_or_stolen_node_is_warned_of():
    looks = converged()
    for found in looks.values():
        found["consul"]["servers"]["n2"]["healthy"] = False
    with pytest.raises(plan.PlanError, match="n3 cannot leave now: the 2 voters that stay would have no quorum: n2 is not well"):
        plan.make(looks, leaving("n3"), render, NOW)
    del looks["n3"]
    made = plan.make(looks, leaving("n3", state="revoked"), render, NOW)
    assert (made["registry"]["n3"]["state"], any("cannot leave now" in text for text in made["warnings"])) == ("revoked", True)


def test_a_departure_that_was_broken_off_goes_on():
    looks = converged()
    first = plan.make(looks, leaving("n3"), render, NOW)
    # Only one node was told.
    looks["n1"]["mesh"]["registry"] = first["registry"]
    again = plan.make(looks, leaving("n3"), render, "2026-02-03T00:00:00Z")
    assert again["registry"] == first["registry"]
    assert "the registry differs" not in again["hosts"]["n1"]["drift"]["registry"]
    assert again["hosts"]["n3"]["drift"] == {"registry": ["the registry differs"]}


def test_a_run_in_the_middle_of_a_departure_leaves_the_node_and_its_vote_alone():
    looks = converged()
    gone = plan.make(looks, leaving("n3"), render, NOW)["registry"]
    looks["n2"]["mesh"]["registry"] = gone
    made = plan.make(looks, asked(), render, NOW)
    assert (made["registry"]["n3"]["state"], sorted(made["hosts"])) == ("left", ["n1", "n2"])
    assert made["servers"] == ["n1", "n2"]
    assert not any("n3" in line for line in made["lines"] if line.startswith("n3:"))


def test_when_the_departure_is_done_the_links_go():
    looks = converged()
    gone = plan.make(looks, leaving("n3"), render, NOW)["registry"]
    del looks["n3"]
    for found in looks.values():
        found["mesh"]["registry"] = gone
        found["consul"]["raft"] = found["consul"]["raft"][:2]
        found["consul"]["members"][2]["alive"] = False
    made = plan.make(looks, asked(), render, NOW)
    assert all("n3" not in made["hosts"][name]["accepts"] for name in looks)
    assert all(any("n3" in reason for reason in made["hosts"][name]["drift"]["cjdns"]) for name in looks)
    assert all("still has n3" in made["hosts"][name]["drift"]["registry"][0] for name in looks)


def test_a_revoked_node_is_not_taken_in_even_when_it_is_asked_for():
    looks = converged()
    before = looks["n1"]["mesh"]["registry"]
    looks["n1"]["mesh"]["registry"] = {**before, "n3": {**before["n3"], "state": "revoked", "version": 9}}
    with pytest.raises(plan.PlanError, match="n3 was revoked, and stays so"):
        plan.make(looks, asked(joining=frozenset({"n3"})), render, NOW)
