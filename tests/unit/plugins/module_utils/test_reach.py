# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from itertools import combinations

from ansible_collections.vdloo.mesh.plugins.module_utils import graphs, peering
from ansible_collections.vdloo.mesh.plugins.module_utils.reach import Reach
from hypothesis import given
from hypothesis import strategies as st

ZONES = ["public", "a", "b", "c"]
some_nodes = st.lists(
    st.tuples(st.lists(st.sampled_from(ZONES), unique=True), st.lists(st.sampled_from(ZONES), unique=True)), max_size=9
).map(
    lambda rows: [
        {"name": f"n{i}", "zones": zones, "endpoints": [{"address": f"10.0.0.{i}:1", "zone": zone} for zone in listens]}
        for i, (zones, listens) in enumerate(rows)
    ]
)


def all_links(reach):
    near = {v: set() for v in range(len(reach.nodes))}
    for u, v in combinations(near, 2):
        if peering.dialable(reach.nodes[u], reach.nodes[v]) or peering.dialable(reach.nodes[v], reach.nodes[u]):
            near[u].add(v)
            near[v].add(u)
    return near


def without(near, lost):
    return {v: peers - {lost} for v, peers in near.items() if v != lost}


@given(some_nodes)
def test_two_nodes_can_be_linked_when_one_can_dial_the_other(nodes):
    reach = Reach(nodes)
    near = all_links(reach)
    for u in near:
        assert set(reach.partners(reach.kind(u), list(near))) - {u} == near[u]
        assert {v for v in near if v != u and reach.linkable(u, v)} == near[u]
        assert reach.listening(u) == any(peering.dialable(reach.nodes[v], reach.nodes[u]) for v in near if v != u)


@given(some_nodes)
def test_the_skeleton_connects_what_all_links_do_also_when_a_node_is_lost(nodes):
    reach = Reach(nodes)
    whole, skeleton = all_links(reach), reach.skeleton()
    assert all(skeleton[v] <= whole[v] for v in whole)
    assert graphs.components(skeleton) == graphs.components(whole)
    for lost in whole:
        assert graphs.components(without(skeleton, lost)) == graphs.components(without(whole, lost))


@given(some_nodes)
def test_in_a_circle_every_node_can_dial_every_other_and_is_in_no_second_one(nodes):
    reach = Reach(nodes)
    seen = set()
    for circle in reach.circles(list(range(len(nodes)))):
        assert seen.isdisjoint(circle)
        seen.update(circle)
        for u, v in combinations(circle, 2):
            assert peering.dialable(reach.nodes[u], reach.nodes[v])
            assert peering.dialable(reach.nodes[v], reach.nodes[u])
