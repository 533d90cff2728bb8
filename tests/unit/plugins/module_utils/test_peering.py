# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import random

from ansible_collections.vdloo.mesh.plugins.module_utils import peering
from hypothesis import given
from hypothesis import strategies as st


def node(name, endpoints=(), zones=()):
    return {"name": name, "endpoints": [{"address": a, "zone": z} for a, z in endpoints], "zones": list(zones)}


DEMO = [
    node("vps1", [("10.0.0.1:1", "internet")], ["internet"]),
    node("vps2", [("10.0.0.2:1", "internet")], ["internet"]),
    node("desktop", [("10.0.0.3:1", "internet"), ("10.0.1.1:1", "office")], ["internet", "office"]),
    node("nas", [("10.0.1.2:1", "office")], ["office"]),
    node("pi", [], ["internet"]),
]

any_nodes = st.lists(
    st.builds(
        lambda number, zones, listens: node(f"n{number}", [(f"10.0.{number}.{i}:1", z) for i, z in enumerate(listens)], zones),
        st.integers(0, 30),
        st.lists(st.sampled_from("abc"), unique=True),
        st.lists(st.sampled_from(["a", "b", "c", "public"]), unique=True),
    ),
    unique_by=lambda n: n["name"],
    max_size=12,
)


def test_a_node_behind_nat_dials_and_is_never_dialled():
    links = peering.links(DEMO)
    assert {link["listener"] for link in links if link["dialler"] == "pi"} == {"vps1", "vps2", "desktop"}
    assert not [link for link in links if link["listener"] == "pi"]


def test_a_zone_of_their_own_comes_before_the_public_one():
    listener = node("a", [("192.0.2.1:1", "public"), ("10.0.0.1:1", "zoo")])
    assert peering.dialable(node("b", zones=["zoo"]), listener) == ["10.0.0.1:1", "192.0.2.1:1"]
    assert peering.dialable(node("b"), listener) == ["192.0.2.1:1"]


def test_nodes_without_a_common_zone_are_told_apart():
    assert peering.islands(DEMO) == [["desktop", "nas", "pi", "vps1", "vps2"]]
    lonely = [*DEMO, node("lost")]
    assert peering.islands(lonely) == [["desktop", "nas", "pi", "vps1", "vps2"], ["lost"]]
    assert "desktop, nas, pi, vps1, vps2; lost" in peering.problems(lonely)[0]
    assert peering.problems(DEMO) == []


def test_one_node_alone_is_a_whole_mesh():
    assert peering.problems([node("only")]) == []


@given(any_nodes)
def test_each_pair_that_can_be_linked_is_linked_once_and_no_other(nodes):
    by_name = {n["name"]: n for n in nodes}
    links = peering.links(nodes)
    pairs = [frozenset((link["dialler"], link["listener"])) for link in links]
    assert len(pairs) == len(set(pairs))
    for link in links:
        assert link["address"] in peering.dialable(by_name[link["dialler"]], by_name[link["listener"]])
    for a in nodes:
        for b in nodes:
            if a is not b and peering.dialable(a, b):
                assert frozenset((a["name"], b["name"])) in pairs


@given(any_nodes, st.integers())
def test_the_links_do_not_depend_on_the_order_of_the_nodes(nodes, seed):
    shuffled = list(nodes)
    random.Random(seed).shuffle(shuffled)
    assert peering.links(nodes) == peering.links(shuffled)
    assert peering.islands(nodes) == peering.islands(shuffled)
