# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who dials whom: the links of the overlay, from the node records alone.

Pure: data in, data out; nothing of Ansible. Records are those of registry.py; only name, endpoints and zones are read.

The possible links are all pairs of which one can dial the other. links() chooses few of them:

- What the possible links connect stays connected, also when any one node is lost. So there are two paths without a common node
  between any two nodes wherever the zones allow two. This always holds.
- A node has at most `degree` links, unless the zones force more on it: the one VPS of a hundred nodes behind NAT gets a hundred. A
  link beyond the bound is made only where no node with room can be chosen, and such load is spread evenly over all that can take it.
  Afterwards each link of a node above the bound is tried for removal or replacement by one to a node with room. (In a mesh of many
  hundreds this ends after a set number of tries. Nor does it prove that there is no other way: to know is as hard as finding a round
  trip through a graph.) Where all nodes have a public endpoint, the bound always holds.
- Choices are made by hashes of the names, so a join or a leave moves few links of others. Where all nodes have a public endpoint
  and there were more than degree + 1 of them, a join changes the links of at most `degree` others (degree 3 aside). Elsewhere there
  is no such limit: a node that comes to share the load of few takes its part of their links over.
- For the links that this needs, a node with a public endpoint is chosen rather than another, as long as the public ones have room to
  spare. Short cuts are added as far as there is room, to any node that can be dialled.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from ansible_collections.vdloo.mesh.plugins.module_utils import graphs
from ansible_collections.vdloo.mesh.plugins.module_utils.reach import BITS, Block, Reach, draw
from ansible_collections.vdloo.mesh.plugins.module_utils.registry import PUBLIC_ZONE

DEGREE = 6
# A node is crowded when the links that it will be asked for use up so much of its room. Between the two, ever more others count it
# as such: were it one figure, a join that crosses it would move half of the mesh.
CALM, CROWDED = 0.5, 0.7
# Load beyond the bound is spread by hash, not counted out: some get a little more than the mean.
SLACK = 1.1
# How many nodes may be looked at while trying to move links away from nodes above the bound: some tenths of a second.
PATIENCE = 100_000


def dialable(dialler: dict, listener: dict) -> list[str]:
    """List the addresses ("IP:PORT") at which `dialler` can dial `listener`, best first.

    An endpoint in zone public can be dialled by all, one in another zone by the nodes that list it. A zone of their own comes
    before the public one: it is the shorter way.
    """
    reachable = [
        (endpoint["zone"] == PUBLIC_ZONE, endpoint["zone"], endpoint["address"])
        for endpoint in listener["endpoints"]
        if endpoint["zone"] == PUBLIC_ZONE or endpoint["zone"] in dialler["zones"]
    ]
    return [address for _public, _zone, address in sorted(reachable)]


def links(nodes: list[dict], degree: int = DEGREE) -> list[dict[str, str]]:
    """Choose the links: a list of {"dialler": name, "listener": name, "address": "IP:PORT"}, sorted.

    A pair is linked once at most. Where both could dial, a node with a public endpoint is dialled rather than one without, else the
    one with the earlier name. Up to degree + 1 nodes that hang together get every possible link. Raises ValueError when degree is
    below 2: two paths need two links.
    """
    if degree < 2:
        raise ValueError(f"a degree of {degree} leaves no node a second path: give 2 or more")
    reach = Reach(nodes)
    possible = reach.skeleton()
    plan = Plan(reach, degree)
    for island in graphs.components(possible):
        if len(island) <= degree + 1:
            plan.fill(island)
        else:
            plan.build(island, [Block(reach, block) for block in graphs.blocks({v: possible[v] for v in island})])
    chosen = [_link(reach.nodes[u], reach.nodes[v]) for u, peers in enumerate(plan.near) for v in peers if u < v]
    return sorted(chosen, key=lambda link: (link["dialler"], link["listener"]))


def islands(nodes: list[dict]) -> list[list[str]]:
    """Group the nodes by what can reach each other over any number of links: sorted lists of names. One island is a whole mesh."""
    reach = Reach(nodes)
    return sorted(sorted(reach.nodes[v]["name"] for v in island) for island in graphs.components(reach.skeleton()))


def problems(nodes: list[dict]) -> list[str]:
    """List what keeps the nodes from becoming one mesh. Empty when nothing does."""
    groups = islands(nodes)
    if len(groups) <= 1:
        return []
    told = "; ".join(", ".join(group) for group in groups)
    return [
        f"the mesh would fall into {len(groups)} parts that cannot dial each other: {told}. "
        "Give a node of each part an endpoint (mesh_endpoints) in zone public or in a zone that a node of the other part lists (mesh_zones)"
    ]


def _link(one: dict, other: dict) -> dict[str, str]:
    early, late = sorted((one, other), key=lambda node: node["name"])
    ways = []
    for dialler, listener in ((late, early), (early, late)):
        addresses = dialable(dialler, listener)
        if addresses:
            private = all(endpoint["zone"] != PUBLIC_ZONE for endpoint in listener["endpoints"])
            ways.append((private, {"dialler": dialler["name"], "listener": listener["name"], "address": addresses[0]}))
    return min(ways, key=lambda way: way[0])[1]


class Plan:
    """The links chosen so far: near[v] holds the nodes that v is linked with."""

    def __init__(self, reach: Reach, degree: int) -> None:
        self.reach = reach
        self.degree = degree
        self.near: list[set[int]] = [set() for _node in reach.nodes]
        self.moods = [draw("mood", node["name"]) for node in reach.nodes]
        self.strain: dict[int, float] = {}
        self.bounds: dict[int, int] = {}

    def fill(self, island: list[int]) -> None:
        for u, v in combinations(island, 2):
            if self.reach.linkable(u, v):
                self._add(u, v)

    def build(self, island: list[int], blocks: list[Block]) -> None:
        """Lay rings first, then add what they lack to survive a loss, then short cuts as far as there is room."""
        circles = self.reach.circles(island)
        first = [pair for circle in circles for pair in self.reach.ring(circle, 0)]
        for pair in first:
            self._add(*pair)
        for block in blocks:
            self._weigh(block)
        # Where many hang on few, these are joined through the many, and need their room for them.
        for u, v in first:
            chance = self.reach.mix(u, v)
            if self._crowded(u, chance) and self._crowded(v, chance):
                self._drop(u, v)
        for block in blocks:
            self._join(block)
        self._relieve(blocks)
        self._shorten(island, circles)

    def _add(self, u: int, v: int) -> None:
        self.near[u].add(v)
        self.near[v].add(u)

    def _drop(self, u: int, v: int) -> None:
        self.near[u].discard(v)
        self.near[v].discard(u)

    def _loose(self, block: Block) -> list[tuple[int, int, list[int], int, set[int]]]:
        """List the parts of a block that hang on the rest by less than two nodes.

        A part is (size, choice, own nodes, missing links, all nodes). Those with the least choice come first.
        """
        parts = graphs.blocks({v: self.near[v] & block.members for v in block.vertices})
        if len(parts) == 1:
            return []
        holders = Counter(v for part in parts for v in part)
        found = []
        for part in parts:
            own = sorted((v for v in part if holders[v] == 1), key=lambda v: (not self.reach.listening(v), v))
            missing = 2 - (len(part) - len(own))
            if missing > 0:
                found.append((len(part), len(block.partners(self.reach.kind(own[0]))), own, missing, set(part)))
        return sorted(found, key=lambda entry: entry[:3])

    def _weigh(self, block: Block) -> None:
        """Foresee for how many links each node will be asked, and set how far beyond the bound those may go that must."""
        load: Counter = Counter()
        alike: Counter = Counter()
        for _size, _choice, own, missing, part in self._loose(block):
            # Single nodes of one kind ask alike. There may be a thousand.
            alike[(self.reach.kind(own[0]), frozenset(part if len(part) > 1 else ()))] += missing
        for (kind, part), missing in alike.items():
            asked = [v for v in block.partners(kind) if v not in part]
            for v in asked:
                load[v] += missing / len(asked)
        for v, more in load.items():
            bound = self.degree
            count = len(self.near[v]) + more
            while count > self.degree and bound < count * SLACK:
                # In steps: were it the mean itself, each join would move it for all.
                bound = -(-bound * 5 // 4)
            self.bounds[v] = max(bound, self.bounds.get(v, 0))
            self.strain[v] = max(more / max(self.degree - 2, 0.5), self.strain.get(v, 0))

    def _crowded(self, v: int, chance: int) -> bool:
        return CALM + (CROWDED - CALM) * chance / 2**BITS < self.strain.get(v, 0)

    def _tier(self, v: int) -> int:
        count = len(self.near[v])
        if count < self.degree:
            return 0
        return 1 if count < self.bounds.get(v, 0) else 1 + count // self.degree

    def _join(self, block: Block) -> None:
        """Add links until no loss of one node cuts the block. A block of two is one link, the only one between its nodes."""
        if len(block.vertices) == 2:
            self._add(*block.vertices)
            return
        loose = self._loose(block)
        while loose:
            touched: set[int] = set()
            for _size, _choice, own, missing, barred in loose:
                # It is no longer as it was when it was looked at: the next round sees what it still lacks.
                if not touched.isdisjoint(own):
                    continue
                for _link in range(missing):
                    pair = self._choose(own, block, barred)
                    if pair is None:
                        break
                    self._add(*pair)
                    touched.update(pair)
                    barred.add(pair[1])
                    # Two links from one node would leave all the others hanging on it.
                    own = [v for v in own if v != pair[0]] or own
            loose = self._loose(block)

    def _choose(self, sources: list[int], block: Block, barred: set[int]) -> tuple[int, int] | None:
        """Choose a link from the first source with room: rather to a node with room, not crowded, public, then by hash.

        Parts are better joined by nodes that can be dialled: one that only dials may be a phone, here today and there tomorrow.
        """
        best = None
        for u in sources:
            tier, heard = self._tier(u), self.reach.listening(u)
            for v in block.partners(self.reach.kind(u)):
                if v not in barred:
                    private = not self.reach.listens[v] & self.reach.public
                    fleeting = not (heard and self.reach.listening(v))
                    cost = (tier + self._tier(v), fleeting, self._crowded(v, self.moods[u]), private, self.reach.mix(u, v), u, v)
                    if best is None or cost < best:
                        best = cost
            if best is not None and best[0] == 0:
                break
        return best and best[-2:]

    def _excess(self, block: Block) -> int:
        return sum(max(0, len(self.near[v]) - self.degree) for v in block.vertices)

    def _relieve(self, blocks: list[Block]) -> None:
        """Take links from the nodes above the bound, one at a time, and join again. Keep what leaves less above the bound."""
        patience = PATIENCE
        open_blocks = [block for block in blocks if len(block.vertices) > 2 and self._excess(block)]
        while open_blocks:
            better = []
            for block in open_blocks:
                before = start = self._excess(block)
                for u, v in self._burdens(block):
                    if len(self.near[v]) <= self.degree or v not in self.near[u]:
                        continue
                    patience -= len(block.vertices)
                    if patience < 0:
                        return
                    saved = {w: set(self.near[w]) for w in block.vertices}
                    self._drop(u, v)
                    self._join(block)
                    after = self._excess(block)
                    if after < before:
                        before = after
                    else:
                        for w, peers in saved.items():
                            self.near[w] = peers
                if before < start:
                    better.append(block)
            open_blocks = better

    def _burdens(self, block: Block) -> list[tuple[int, int]]:
        """List the links (u, v) of nodes v above the bound that might go, the most promising first."""
        found = []
        for v in block.vertices:
            if len(self.near[v]) > self.degree:
                for u in self.near[v] & block.members:
                    count = len(self.near[u])
                    if count > 2 or any(
                        w not in self.near[u] and len(self.near[w]) < self.degree for w in block.partners(self.reach.kind(u))
                    ):
                        found.append((-len(self.near[v]), v, -min(count, self.degree + 1), self.reach.mix(u, v), u))
        return [(u, v) for _full, v, _other, _mix, u in sorted(found)]

    def _shorten(self, island: list[int], circles: list[list[int]]) -> None:
        """Add links by which messages need fewer hops, where both ends have room.

        Each node ranks its wishes and has room for so many. A link is made where both ends have room for it. Wishes that fall out
        are not replaced, so that a change at one node ends with the nodes that it wished for.
        """
        turns = max(2, self.degree // 2)
        wide = [circle for circle in circles if len(circle) > self.degree]
        narrow = set(island).difference(*wide)
        wishes = {(0, pair) for circle in circles for pair in self.reach.ring(circle, 0)}
        for turn in range(1, turns - 1):
            wishes.update((turn, pair) for circle in wide for pair in self.reach.ring(circle, turn))
            wishes.update((turn, pair) for pair in self.reach.crossings(narrow, island, turn))
        wishes.update((turns, pair) for pair in self.reach.crossings(set(island), island, turns))
        room = {v: self.degree - len(self.near[v]) for v in island}
        seen: set[tuple[int, int]] = set()
        for _turn, (u, v) in sorted(wishes, key=lambda wish: (wish[0], self.reach.mix(*wish[1]), wish[1])):
            if (u, v) in seen or v in self.near[u]:
                continue
            seen.add((u, v))
            if room[u] > 0 and room[v] > 0:
                self._add(u, v)
            room[u] -= 1
            room[v] -= 1
