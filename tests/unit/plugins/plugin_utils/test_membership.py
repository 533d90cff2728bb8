# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import look
from ansible_collections.vdloo.mesh.plugins.plugin_utils import membership
from fake_mesh import ADDRESS, KEYS

NODES = ("n1", "n2", "n3")


def record(name: str, **changes) -> dict:
    return {
        "name": name,
        "public_key": KEYS[name],
        "address": ADDRESS[name],
        "overlay": "cjdns",
        "endpoints": [],
        "zones": [],
        "site": "",
        "server_eligible": True,
        "state": "member",
        "version": 1,
        "updated": "2026-01-01T00:00:00Z",
        **changes,
    }


def looks(registry: dict | None = None, generation: str = "one") -> dict[str, dict]:
    known = {name: record(name) for name in NODES} if registry is None else registry
    found = {name: copy.deepcopy(look.NOTHING) for name in NODES}
    for one in found.values():
        one["mesh"].update(generation=generation, registry=known)
        one["consul"].update(leader="[fc00::1]:8300", members=[{"name": name, "alive": True, "server": True} for name in NODES])
    return found


def newcomer(name: str, key: str = "", generation: str = "") -> membership.Newcomer:
    """A machine with the key of a node, one of its own, or none."""
    found = copy.deepcopy(look.NOTHING)
    found["mesh"]["generation"] = generation
    found["cjdns"]["public_key"] = KEYS.get(key, key)
    return membership.Newcomer(f"root@{name}", name, found)


def test_a_machine_of_no_mesh_may_join():
    assert membership.admit([newcomer("n4")], looks()) == ([], [])


def test_a_member_is_told_to_be_one():
    assert membership.admit([newcomer("n2", "n2", "one")], looks()) == ([], ["n2"])


def with_n3(**changes) -> dict[str, dict]:
    return looks({**{name: record(name) for name in NODES}, "n3": record("n3", **changes)})


def test_a_node_that_left_may_come_back_with_its_key_or_another():
    left = with_n3(state="left", version=1001)
    for key in ("n3", "own", ""):
        assert membership.admit([newcomer("n3", key, "one" if key == "n3" else "")], left) == ([], [])


@pytest.mark.parametrize(
    ("coming", "told"),
    [
        (newcomer("n4", "own", "two"), "root@n4: it belongs to another mesh, or has left one and still has its data"),
        (newcomer("n3", "own"), "root@n3: the name n3 is that of a member with another key"),
        (newcomer("n3"), "leave=n3 leave_gone=true"),
        (newcomer("n4", "n3", "one"), "root@n4: it is n3 in this mesh already: say join_name=n3"),
        (newcomer("my_pi"), "its host name 'my_pi' is none that a node may have: give it one with join_name"),
        (newcomer("localhost"), "its host name 'localhost' is none that a node may have"),
        (newcomer(""), "its host name '' is none"),
    ],
)
def test_who_may_not_join_is_told_what_to_do(coming, told):
    problems, _already = membership.admit([coming], looks())
    assert len(problems) == 1
    assert told in problems[0]


@pytest.mark.parametrize("coming", [newcomer("n3", "own"), newcomer("n4", "n3")])
def test_neither_the_name_nor_the_key_of_a_revoked_node_joins(coming):
    problems, _already = membership.admit([coming], with_n3(state="revoked"))
    assert "was revoked, and stays so" in problems[0]


def test_two_newcomers_of_one_name_are_refused():
    twins = [newcomer("n4"), membership.Newcomer("root@other", "n4", newcomer("n4").look)]
    problems, _already = membership.admit(twins, looks())
    assert problems == ["root@other: its name n4 is also that of root@n4: let them join one by one, with join_name"]


def test_without_a_mesh_there_is_nothing_to_join():
    assert "there is nothing to join" in membership.admit([newcomer("n4")], {})[0][0]
    assert "there is nothing to join" in membership.admit([newcomer("n4")], looks({}, generation=""))[0][0]


def leaving(*names: str, **changes) -> membership.Leaving:
    return membership.Leaving(frozenset(names), **changes)


def known(found: dict[str, dict]) -> dict[str, dict]:
    return found["n1"]["mesh"]["registry"]


def test_a_node_that_answers_may_leave():
    assert membership.leaving_problems(leaving("n3"), known(looks()), looks()) == []
    assert membership.keeper(leaving("n1"), looks()) == "n2"


def test_a_stranger_cannot_leave():
    told = membership.leaving_problems(leaving("n9"), known(looks()), looks())
    assert told == ["n9 is no node of the mesh, so it cannot leave. Its nodes are: n1, n2, n3"]


def test_a_node_that_does_not_answer_is_only_let_go_when_it_is_known_to_be_gone():
    found = looks()
    del found["n3"]
    for one in found.values():
        one["consul"]["members"][2]["alive"] = False
    assert "n3 does not answer, and has to do its part" in membership.leaving_problems(leaving("n3"), known(found), found)[0]
    assert membership.leaving_problems(leaving("n3", gone=True), known(found), found) == []


def test_a_node_that_is_alive_is_not_gone_but_can_be_revoked():
    found = looks()
    del found["n3"]
    assert "n3 is alive, so it is not gone" in membership.leaving_problems(leaving("n3", gone=True), known(found), found)[0]
    assert membership.leaving_problems(leaving("n3", state="revoked"), known(found), found) == []


def test_what_has_left_already_needs_nothing_more():
    found = with_n3(state="left", version=1001)
    del found["n3"]
    for one in found.values():
        one["consul"]["members"][2]["alive"] = False
    assert membership.leaving_problems(leaving("n3"), known(found), found) == []


def test_the_last_nodes_cannot_leave():
    assert "would leave nobody in the mesh" in membership.leaving_problems(leaving(*NODES), known(looks()), looks())[-1]


def test_nobody_leaves_in_an_orderly_way_without_a_leader():
    found = looks()
    for one in found.values():
        one["consul"]["leader"] = ""
    assert "Consul has no leader now" in membership.leaving_problems(leaving("n3"), known(found), found)[0]
    assert membership.leaving_problems(leaving("n3", state="revoked"), known(found), found) == []
    assert membership.keeper(leaving("n3"), found) == ""


def test_a_node_that_lost_its_links_while_it_left_finishes_alone():
    found = with_n3(state="left", version=1001)
    alone = {"n3": found["n3"]}
    alone["n3"]["consul"].update(leader="")
    assert membership.leaving_problems(leaving("n3"), known(found), alone) == []
    assert membership.keeper(leaving("n3"), alone) == ""
    # One that has not begun is not taken out of a mesh that it does not see.
    assert "none of the nodes that stay answers" in membership.leaving_problems(leaving("n3"), known(looks()), {"n3": looks()["n3"]})[0]
