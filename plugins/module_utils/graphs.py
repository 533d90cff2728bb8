# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connectivity of undirected graphs. A graph is {vertex: set of its neighbours}; each edge stands at both ends, none is a loop."""

from __future__ import annotations


def components(near: dict[int, set[int]]) -> list[list[int]]:
    """List what hangs together, each as a sorted list of vertices."""
    seen: set[int] = set()
    found = []
    for root in near:
        if root not in seen:
            seen.add(root)
            component = [root]
            for v in component:
                fresh = near[v] - seen
                seen |= fresh
                component.extend(fresh)
            found.append(sorted(component))
    return sorted(found)


def blocks(near: dict[int, set[int]]) -> list[list[int]]:
    """List the largest parts that the loss of any one vertex leaves in one piece, each as a sorted list of vertices.

    Two blocks share at most one vertex, and that is one whose loss cuts the graph. A single edge is a block of two, and a vertex
    without edges a block of one. Linear in the size of the graph, and without recursion: a chain may be long.
    """
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    found = []
    for root in near:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        if not near[root]:
            found.append([root])
        waiting = [root]
        trail = [(root, root, iter(near[root]))]
        while trail:
            v, parent, rest = trail[-1]
            for w in rest:
                if w not in order:
                    order[w] = low[w] = len(order)
                    waiting.append(w)
                    trail.append((w, v, iter(near[w])))
                    break
                if w != parent:
                    low[v] = min(low[v], order[w])
            else:
                trail.pop()
                low[parent] = min(low[parent], low[v])
                if v != root and low[v] >= order[parent]:
                    block = [parent]
                    while block[-1] != v:
                        block.append(waiting.pop())
                    found.append(sorted(block))
    return sorted(found)
