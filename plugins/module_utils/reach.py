# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which pairs of nodes can be linked, because one can dial the other: a graph of up to n * n / 2 pairs that is never written out.

Pure: data in, data out; nothing of Ansible. A node is a number here: its place in the order of the hashes of the names. So a node
that joins moves no two others past each other.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from hashlib import sha256

from ansible_collections.vdloo.mesh.plugins.module_utils.registry import PUBLIC_ZONE

BITS = 64
# Odd, with its bits well mixed: multiplying by it spreads what two hashes differ in over all bits.
_SPREAD = 0x9E3779B97F4A7C15


def draw(purpose: str, name: str) -> int:
    """Draw a number of 64 bits for a node. For each purpose it is another one, and for a name always the same."""
    return int.from_bytes(sha256(f"{purpose} {name}".encode()).digest()[: BITS // 8], "big")


class Reach:
    """The nodes, in order, and the zones that they dial and listen in, as bits."""

    def __init__(self, nodes: list[dict]) -> None:
        self.nodes = sorted(nodes, key=lambda node: (draw("order", node["name"]), node["name"]))
        self.hashes = [draw("order", node["name"]) for node in self.nodes]
        self._diallers: dict[str, list[int]] = {PUBLIC_ZONE: list(range(len(nodes)))}
        self._listeners: dict[str, list[int]] = {}
        for v, node in enumerate(self.nodes):
            for zone in set(node["zones"]) - {PUBLIC_ZONE}:
                self._diallers.setdefault(zone, []).append(v)
            for zone in {endpoint["zone"] for endpoint in node["endpoints"]}:
                self._listeners.setdefault(zone, []).append(v)
        self.dials, self.listens = [0] * len(nodes), [0] * len(nodes)
        self.public = self._dialled = self._dialled_by_two = 0
        # The lowest bit is that of zone public, the others follow by name.
        for place, zone in enumerate(sorted(self._listeners, key=lambda zone: (zone != PUBLIC_ZONE, zone))):
            bit = 1 << place
            diallers = self._diallers.get(zone, [])
            for v in diallers:
                self.dials[v] |= bit
            for v in self._listeners[zone]:
                self.listens[v] |= bit
            if zone == PUBLIC_ZONE:
                self.public = bit
            if diallers:
                self._dialled |= bit
            if len(diallers) > 1:
                self._dialled_by_two |= bit

    def listening(self, v: int) -> bool:
        """Tell whether any other node can dial this one."""
        return bool(self.listens[v] & (self._dialled_by_two | self._dialled & ~self.dials[v]))

    def kind(self, v: int) -> tuple[int, int]:
        """Nodes of one kind can be linked with the same nodes."""
        return self.dials[v], self.listens[v]

    def partners(self, kind: tuple[int, int], among: list[int]) -> list[int]:
        """List which of some nodes a node of this kind can be linked with; itself, if it can dial itself."""
        dials, listens = kind
        return [v for v in among if dials & self.listens[v] or listens & self.dials[v]]

    def linkable(self, u: int, v: int) -> bool:
        return bool(self.dials[u] & self.listens[v] or self.listens[u] & self.dials[v])

    def mix(self, u: int, v: int) -> int:
        """Draw a number of 64 bits for a pair: it depends on the two names alone."""
        return (self.hashes[u] ^ self.hashes[v]) * _SPREAD % 2**BITS

    def skeleton(self) -> dict[int, set[int]]:
        """Give a few of the possible links that keep the same nodes connected as all of them do, also when any one node is lost.

        In each zone these are two listeners with all diallers, and two diallers with all listeners. When a node is lost, one of
        each pair is still there, and all others of the zone hang on these two.
        """
        near: dict[int, set[int]] = {v: set() for v in range(len(self.nodes))}
        for zone, listeners in self._listeners.items():
            diallers = self._diallers.get(zone, [])
            for hubs, others in ((listeners[:2], diallers), (diallers[:2], listeners)):
                for u in hubs:
                    for v in others:
                        if u != v:
                            near[u].add(v)
                            near[v].add(u)
        return near

    def circles(self, island: list[int]) -> list[list[int]]:
        """Divide the nodes that both dial and listen in a zone into groups, in each of which all can dial each other.

        A node goes to the public group if it can be dialled there, else to that of its first zone by name with three such nodes.
        """
        own = {v: _bits(self.dials[v] & self.listens[v]) for v in island}
        count = Counter(zone for zones in own.values() for zone in zones)
        found: dict[int, list[int]] = {}
        for v, zones in own.items():
            fit = [zone for zone in zones if zone == self.public or count[zone] >= 3]
            if fit:
                found.setdefault(fit[0], []).append(v)
        return list(found.values())

    def ring(self, circle: list[int], turn: int) -> list[tuple[int, int]]:
        """Pair each node of a group with the next. Each turn goes round in another order; a node that joins comes between two."""
        row = sorted(circle, key=lambda v: draw(f"ring {turn}", self.nodes[v]["name"]))
        return [(min(pair), max(pair)) for pair in zip(row, row[1:] + row[:1]) if pair[0] != pair[1]]

    def crossings(self, sources: set[int], island: list[int], turn: int) -> list[tuple[int, int]]:
        """Pair each source with the next of the listening nodes that it can be linked with, in the order of this turn."""
        place = {v: draw(f"ring {turn}", self.nodes[v]["name"]) for v in island}
        row = sorted(filter(self.listening, island), key=lambda v: place[v])
        known: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        found = []
        for u in sources:
            kind = self.kind(u)
            if kind not in known:
                others = self.partners(kind, row)
                known[kind] = others, [place[v] for v in others]
            others, places = known[kind]
            after = bisect(places, place[u])
            following = [v for v in others[after : after + 1] + others[:1] if v != u]
            found += [(min(u, v), max(u, v)) for v in following[:1]]
        return found


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        found.append(mask & -mask)
        mask &= mask - 1
    return found


class Block:
    """Nodes of which no single loss cuts the possible links, and who among them can be linked with whom."""

    def __init__(self, reach: Reach, vertices: list[int]) -> None:
        self.vertices = vertices
        self.members = set(vertices)
        self._reach = reach
        self._partners: dict[tuple[int, int], list[int]] = {}

    def partners(self, kind: tuple[int, int]) -> list[int]:
        if kind not in self._partners:
            self._partners[kind] = self._reach.partners(kind, self.vertices)
        return self._partners[kind]
