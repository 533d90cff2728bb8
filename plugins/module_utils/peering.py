# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who dials whom: the links of the overlay, from the node records alone.

Pure: data in, data out; nothing of Ansible. Records are those of registry.py; only name, endpoints and zones are read.
"""

from __future__ import annotations

from itertools import combinations

from ansible_collections.vdloo.mesh.plugins.module_utils.registry import PUBLIC_ZONE


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


def links(nodes: list[dict]) -> list[dict[str, str]]:
    """Choose the links: a list of {"dialler": name, "listener": name, "address": "IP:PORT"}, sorted.

    Each pair that can be linked is linked once. Where both could dial, the one with the later name does, so that every run from
    everywhere chooses alike.
    """
    chosen = []
    for early, late in combinations(sorted(nodes, key=lambda node: node["name"]), 2):
        for dialler, listener in ((late, early), (early, late)):
            addresses = dialable(dialler, listener)
            if addresses:
                chosen.append({"dialler": dialler["name"], "listener": listener["name"], "address": addresses[0]})
                break
    return sorted(chosen, key=lambda link: (link["dialler"], link["listener"]))


def islands(nodes: list[dict]) -> list[list[str]]:
    """Group the nodes by what can reach each other over any number of links: sorted lists of names. One island is a whole mesh."""
    group_of = {node["name"]: {node["name"]} for node in nodes}
    for link in links(nodes):
        joined = group_of[link["dialler"]] | group_of[link["listener"]]
        for name in joined:
            group_of[name] = joined
    return sorted(list(group) for group in {tuple(sorted(group)) for group in group_of.values()})


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
