# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import random
from itertools import combinations
from statistics import mean

import networkx
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import peering
from hypothesis import given, settings
from hypothesis import strategies as st


def node(name, endpoints=(), zones=()):
    return {"name": name, "endpoints": [{"address": a, "zone": z} for a, z in endpoints], "zones": list(zones)}


def hubs(count, name="hub"):
    return [node(f"{name}{i}", [(f"192.0.2.{i % 250}:{1 + i}", "public")]) for i in range(count)]


def behind_nat(count, name="nat", zones=()):
    return [node(f"{name}{i}", [], zones) for i in range(count)]


def homes(count, size, gates=1, phones=0):
    """Each home has nodes that dial each other, of which some are public, and phones that nobody can dial."""
    made = []
    for h in range(count):
        for i in range(size):
            public = [(f"192.0.2.{h % 250}:{1 + i + 9 * h}", "public")] if i < gates else []
            made.append(node(f"home{h}n{i}", [*public, (f"10.0.{h}.{i}:1", f"home{h}")], [f"home{h}"]))
        made += behind_nat(phones, f"home{h}phone", [f"home{h}"])
    return made


def scattered(count, zones, seed):
    rng = random.Random(seed)
    listens, public = rng.random(), rng.choice([0, 0.02, 0.1, 0.3])
    made = []
    for i in range(count):
        listed = [f"z{rng.randrange(zones)}" for _zone in range(rng.choice([0, 1, 1, 2, 3]))]
        endpoints = [(f"10.{i % 250}.0.1:{1 + i}", zone) for zone in sorted(set(listed)) if rng.random() < listens]
        if rng.random() < 0.1:
            endpoints.append((f"10.{i % 250}.0.2:{1 + i}", f"z{rng.randrange(zones)}"))
        if rng.random() < public:
            endpoints.append((f"192.0.2.1:{1 + i}", "public"))
        made.append(node(f"n{i}", endpoints, listed))
    return made


def chain(*names):
    """Each node can dial the one before it, and nobody else."""
    return [node(name, [(f"10.0.0.{i}:1", f"net{i}")], [f"net{i - 1}"]) for i, name in enumerate(names)]


def tree(count, branches):
    """Each node can dial the one above it, which lets nobody else in."""
    return [node(f"t{i}", [(f"10.0.{i}.1:1", f"net{i}")], [f"net{(i - 1) // branches}"] if i else []) for i in range(count)]


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
        st.integers(0, 40),
        st.lists(st.sampled_from("abcd"), unique=True, max_size=2),
        st.lists(st.sampled_from(["a", "b", "c", "d", "public"]), unique=True, max_size=2),
    ),
    unique_by=lambda n: n["name"],
    max_size=20,
)


def possible(nodes):
    """Give the graph of all pairs of which one can dial the other, by the rule of the zones itself."""
    graph = networkx.Graph()
    graph.add_nodes_from(n["name"] for n in nodes)
    for zone in {endpoint["zone"] for n in nodes for endpoint in n["endpoints"]}:
        listeners = [n["name"] for n in nodes if any(endpoint["zone"] == zone for endpoint in n["endpoints"])]
        diallers = [n["name"] for n in nodes if zone == "public" or zone in n["zones"]]
        graph.add_edges_from((d, ll) for d in diallers for ll in listeners if d != ll)
    return graph


def chosen(nodes, degree=peering.DEGREE):
    graph = networkx.Graph()
    graph.add_nodes_from(n["name"] for n in nodes)
    graph.add_edges_from((link["dialler"], link["listener"]) for link in peering.links(nodes, degree))
    return graph


def blocks(graph):
    return sorted(sorted(block) for block in networkx.biconnected_components(graph))


def above(graph, degree):
    return [v for v, count in graph.degree() if count > degree]


def changed(before, after):
    """Count the nodes of both meshes whose links are not the same in the two."""
    return sum(set(before[v]) != set(after[v]) for v in before if v in after)


def check_connectivity(nodes, degree=peering.DEGREE):
    whole, few = possible(nodes), chosen(nodes, degree)
    assert all(whole.has_edge(*edge) for edge in few.edges)
    assert sorted(map(sorted, networkx.connected_components(few))) == sorted(map(sorted, networkx.connected_components(whole)))
    assert set(networkx.articulation_points(few)) == set(networkx.articulation_points(whole))
    # Stricter: what the loss of a node leaves together is the same, not only whether its loss cuts.
    assert blocks(few) == blocks(whole)
    return whole, few


def test_a_node_behind_nat_dials_and_is_never_dialled():
    links = peering.links(DEMO)
    assert {link["listener"] for link in links if link["dialler"] == "pi"} == {"vps1", "vps2", "desktop"}
    assert not [link for link in links if link["listener"] == "pi"]


def test_a_zone_of_their_own_comes_before_the_public_one():
    listener = node("a", [("192.0.2.1:1", "public"), ("10.0.0.1:1", "zoo")])
    assert peering.dialable(node("b", zones=["zoo"]), listener) == ["10.0.0.1:1", "192.0.2.1:1"]
    assert peering.dialable(node("b"), listener) == ["192.0.2.1:1"]


def test_of_two_that_could_dial_each_other_the_public_one_is_dialled():
    desktop, vps = node("a", [("10.0.0.1:1", "home")], ["home"]), node("b", [("192.0.2.1:1", "public")], ["home"])
    assert peering.links([desktop, vps]) == [{"dialler": "a", "listener": "b", "address": "192.0.2.1:1"}]
    assert peering.links(hubs(2)) == [{"dialler": "hub1", "listener": "hub0", "address": "192.0.2.0:1"}]


def test_nodes_without_a_common_zone_are_told_apart():
    assert peering.islands(DEMO) == [["desktop", "nas", "pi", "vps1", "vps2"]]
    lonely = [*DEMO, node("lost")]
    assert peering.islands(lonely) == [["desktop", "nas", "pi", "vps1", "vps2"], ["lost"]]
    assert "desktop, nas, pi, vps1, vps2; lost" in peering.problems(lonely)[0]
    assert peering.problems(DEMO) == []


def test_one_node_alone_is_a_whole_mesh():
    assert peering.problems([node("only")]) == []
    assert peering.links([node("only")]) == []
    assert peering.links([]) == []


def test_a_degree_that_leaves_no_second_path_is_refused():
    with pytest.raises(ValueError, match="give 2 or more"):
        peering.links(DEMO, degree=1)


@given(any_nodes)
def test_a_small_mesh_gets_every_link_that_is_possible(nodes):
    few = nodes[: peering.DEGREE + 1]
    assert set(map(frozenset, chosen(few).edges)) == set(map(frozenset, possible(few).edges))


@settings(max_examples=1500)
@given(any_nodes, st.integers(2, 7))
def test_no_loss_cuts_the_mesh_that_need_not(nodes, degree):
    check_connectivity(nodes, degree)


@settings(max_examples=1500)
@given(any_nodes, st.integers(2, 7))
def test_no_link_of_a_node_above_the_bound_can_be_dropped_or_moved(nodes, degree):
    whole, few = possible(nodes), chosen(nodes, degree)
    wanted = blocks(whole)
    for island in networkx.connected_components(few):
        if len(island) <= degree + 1:
            continue
        for v in above(few.subgraph(island), degree):
            for u in list(few[v]):
                rest = few.copy()
                rest.remove_edge(u, v)
                assert blocks(rest) != wanted
                for w in whole[u]:
                    if w != v and not few.has_edge(u, w) and few.degree(w) < degree:
                        rest.add_edge(u, w)
                        assert blocks(rest) != wanted
                        rest.remove_edge(u, w)


@given(any_nodes)
def test_each_pair_is_linked_once_at_an_address_that_can_be_dialled(nodes):
    by_name = {n["name"]: n for n in nodes}
    links = peering.links(nodes)
    assert links == sorted(links, key=lambda link: (link["dialler"], link["listener"]))
    pairs = [frozenset((link["dialler"], link["listener"])) for link in links]
    assert len(pairs) == len(set(pairs))
    for link in links:
        assert link["address"] == peering.dialable(by_name[link["dialler"]], by_name[link["listener"]])[0]


@settings(max_examples=300)
@given(any_nodes, st.integers())
def test_the_links_do_not_depend_on_the_order_of_the_nodes(nodes, seed):
    shuffled = list(nodes)
    random.Random(seed).shuffle(shuffled)
    for n in shuffled:
        n["zones"], n["endpoints"] = n["zones"][::-1], n["endpoints"][::-1]
    first = peering.links(nodes)
    assert first == peering.links(shuffled)
    assert peering.islands(nodes) == peering.islands(shuffled)


@pytest.mark.parametrize("count", [8, 9, 25, 250, 1200])
def test_where_all_see_all_no_loss_cuts_and_paths_are_short(count):
    few = chosen(hubs(count))
    assert networkx.is_biconnected(few)
    assert not above(few, 6)
    assert networkx.approximation.diameter(few) <= 8


def test_a_chain_is_linked_as_a_chain():
    assert peering.links(chain("a", "b", "c")) == [
        {"dialler": "b", "listener": "a", "address": "10.0.0.0:1"},
        {"dialler": "c", "listener": "b", "address": "10.0.0.1:1"},
    ]
    long = chain(*(f"c{i:02}" for i in range(40)))
    assert len(peering.links(long)) == 39
    assert peering.problems(long) == []


def test_a_tree_through_nat_is_linked_as_a_tree():
    for nodes in (tree(40, 2), tree(40, 12)):
        _whole, few = check_connectivity(nodes)
        assert networkx.is_tree(few)


def test_a_second_way_into_a_branch_of_the_tree_is_used():
    nodes = tree(40, 2)
    nodes[39]["zones"].append("net20")
    _whole, few = check_connectivity(nodes)
    assert few.has_edge("t39", "t20")


@pytest.mark.parametrize("seed", range(60))
def test_scattered_meshes_of_some_hundred_nodes_keep_their_connectivity(seed):
    rng = random.Random(seed)
    check_connectivity(scattered(rng.randrange(50, 300), rng.choice([2, 10, 50, 200]), seed), rng.choice([2, 3, 4, 6, 6, 6]))


@pytest.mark.parametrize(
    "nodes",
    [
        hubs(40) + behind_nat(1160),
        homes(100, 10, gates=1, phones=2),
        homes(299, 4, gates=0) + hubs(4),
        tree(1200, 3),
        scattered(1200, 400, 3),
        scattered(1200, 1200, 5),
    ],
    ids=["forty hubs", "homes", "homes without gates", "tree", "many zones", "a zone a node"],
)
def test_meshes_of_1200_nodes_keep_their_connectivity(nodes):
    check_connectivity(nodes)


def test_homes_with_one_public_node_each_stay_within_the_bound():
    nodes = homes(60, 10, gates=1, phones=2)
    whole, few = check_connectivity(nodes)
    assert networkx.is_biconnected(few)
    assert not above(few, 6)


def test_the_bound_holds_to_the_last_link_that_the_hubs_can_take():
    """Each node behind NAT needs two links, each hub has six: three times as many nodes can hang on the hubs, and not one more."""
    for count in (2, 3, 5, 8, 13, 30):
        for clients in range(max(1, 8 - count), 3 * count + 1):
            few = chosen(hubs(count) + behind_nat(clients))
            assert networkx.is_biconnected(few)
            assert not above(few, 6), (count, clients)


def test_the_only_node_that_can_be_dialled_takes_all():
    few = chosen(hubs(1) + behind_nat(100))
    assert few.degree("hub0") == 100
    assert few.number_of_edges() == 100


def test_a_load_beyond_the_bound_is_spread_evenly():
    nodes = hubs(10) + behind_nat(500)
    few = chosen(nodes)
    load = [few.degree(f"hub{i}") for i in range(10)]
    assert sum(load) == 1000
    assert max(load) <= 1.4 * mean(load)
    assert all(few.degree(f"nat{i}") == 2 for i in range(500))


def test_only_those_that_must_go_beyond_the_bound():
    doors = [node(f"door{i}", [(f"10.0.0.{i}:1", "crowd"), (f"10.1.0.{i}:1", "quiet")], ["crowd", "quiet"]) for i in range(2)]
    quiet = [node(f"quiet{i}", [(f"10.1.1.{i}:1", "quiet")], ["quiet"]) for i in range(40)]
    few = chosen([*doors, *behind_nat(40, "guest", ["crowd"]), *quiet])
    assert networkx.is_biconnected(few)
    assert set(above(few, 6)) == {"door0", "door1"}
    assert few.degree("door0") == few.degree("door1") == 41


def dialled_by_phones(nodes):
    """Give, by phone, how many of the nodes that it dials are hubs, and how many there are."""
    dialled = {}
    for link in peering.links(nodes):
        if "phone" in link["dialler"]:
            dialled.setdefault(link["dialler"], []).append(link["listener"].startswith("hub"))
    return {phone: (sum(of_hubs), len(of_hubs)) for phone, of_hubs in dialled.items()}


def test_public_endpoints_are_dialled_rather_than_others_while_they_have_room():
    assert all(of_hubs >= 2 for of_hubs, _all in dialled_by_phones(hubs(10) + homes(3, 12, gates=0, phones=3)).values())


def test_crowded_public_nodes_are_left_to_those_who_have_no_choice():
    nodes = hubs(5) + homes(20, 8, gates=0, phones=2)
    assert all(of_hubs == 0 for of_hubs, _all in dialled_by_phones(nodes).values())
    few = chosen(nodes)
    # Each home needs two links to the hubs.
    assert networkx.is_biconnected(few)
    assert sum(few.degree(f"hub{i}") for i in range(5)) == 40


@pytest.mark.parametrize("degree", [2, 4, 5, 6, 8])
def test_where_all_see_all_a_join_touches_no_more_nodes_than_the_bound(degree):
    nodes = hubs(60, "node")
    before = chosen(nodes[: degree + 2], degree)
    for count in range(degree + 3, 60):
        after = chosen(nodes[:count], degree)
        assert changed(before, after) <= degree
        before = after
    for lost in range(60):
        assert changed(chosen(nodes, degree), chosen(nodes[:lost] + nodes[lost + 1 :], degree)) <= degree


def growth(nodes, seed, steps):
    order = list(nodes)
    random.Random(seed).shuffle(order)
    meshes = [chosen(order[:count]) for count in range(len(order) - steps, len(order) + 1)]
    return [changed(before, after) for before, after in zip(meshes, meshes[1:])]


@pytest.mark.parametrize(
    "nodes",
    [homes(25, 10, gates=1, phones=2), hubs(100) + behind_nat(150), hubs(30) + homes(25, 8, gates=0, phones=1), scattered(250, 30, 9)],
    ids=["homes", "half behind nat", "homes and hubs", "scattered"],
)
def test_a_join_leaves_nearly_all_other_links_as_they_are(nodes):
    touched = growth(nodes, 1, 60)
    assert mean(touched) <= 10
    assert max(touched) <= len(nodes) / 8


def test_no_join_of_a_growing_crowd_moves_everything():
    """From hubs with room to hubs far beyond the bound: there is no figure at which the plan tips over."""
    nodes = hubs(30) + behind_nat(220)
    meshes = [chosen(nodes[:count]) for count in range(30, 251)]
    touched = [changed(before, after) for before, after in zip(meshes, meshes[1:])]
    assert mean(touched) <= 10
    assert max(touched) <= 40


def test_an_island_is_planned_by_itself():
    mainland = [node(f"m{i}", [(f"10.8.0.{i}:1", "main")] if i % 2 else [], ["main"]) for i in range(40)]
    island = [node(f"i{i}", [(f"10.9.0.{i}:1", "island")], ["island"]) for i in range(7)]
    alone, both = chosen(mainland), chosen(mainland + island)
    assert changed(alone, both) == 0
    assert all(both.has_edge(f"i{i}", f"i{j}") for i, j in combinations(range(7), 2))
