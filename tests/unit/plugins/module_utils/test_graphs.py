# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import networkx
from ansible_collections.vdloo.mesh.plugins.module_utils import graphs
from hypothesis import given
from hypothesis import strategies as st

edges = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda edge: edge[0] != edge[1]), max_size=30)


def read(size, edges):
    graph = networkx.Graph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from(edges)
    return graph, {v: set(graph[v]) for v in graph}


@given(edges)
def test_components_are_those_that_networkx_finds(edges):
    graph, near = read(12, edges)
    assert graphs.components(near) == sorted(sorted(component) for component in networkx.connected_components(graph))


@given(edges)
def test_blocks_are_those_that_networkx_finds_and_the_nodes_without_edges(edges):
    graph, near = read(12, edges)
    expected = [sorted(block) for block in networkx.biconnected_components(graph)]
    assert graphs.blocks(near) == sorted(expected + [[v] for v in networkx.isolates(graph)])


def test_a_long_chain_does_not_exhaust_the_stack():
    _graph, near = read(5000, [(v, v + 1) for v in range(4999)])
    assert graphs.components(near) == [list(range(5000))]
    assert graphs.blocks(near) == [[v, v + 1] for v in range(4999)]
