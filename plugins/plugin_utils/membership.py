# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may join a mesh, and who may leave it now. Pure."""

from __future__ import annotations

import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import quorum
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records

REVOKED = "was revoked, and stays so: make it a new key (move /etc/cjdns away on it) and join it with another join_name"


class Newcomer(typing.NamedTuple):
    """Who is to join: as the operator wrote it, the name that it is to have, and the answer of node_info."""

    target: str
    name: str
    look: dict


class Leaving(typing.NamedTuple):
    """What was asked for."""

    names: frozenset[str] = frozenset()
    state: str = "left"  # or revoked: in other hands, so that nobody waits for what it does itself
    gone: bool = False  # known never to come back

    @property
    def is_orderly(self) -> bool:
        """Whether the nodes leave themselves, and are needed for it."""
        return self.state == "left" and not self.gone


def admit(newcomers: list[Newcomer], looks: dict[str, dict]) -> tuple[list[str], list[str]]:
    """List why newcomers may not join a mesh of which these nodes were looked at, and who is a member already."""
    known = records.merge(*(records.sift(look["mesh"].get("registry") or {}, {})[0] for look in looks.values()))
    generations = {look["mesh"]["generation"] for look in looks.values() if look["mesh"].get("generation")}
    found, already = [], []
    if len(generations) != 1:
        found.append(
            "None of the nodes of the inventory that answered belongs to a mesh: there is nothing to join. A new mesh is made by vdloo.mesh.site"
            if not generations
            else "the nodes of the inventory belong to several meshes: keep those of one in it"
        )
    names: dict[str, str] = {}
    for newcomer in newcomers:
        target, name, look = newcomer
        problem = _newcomer_problem(newcomer, known, generations)
        first = names.setdefault(name, target)
        if first != target:
            problem = problem or f"its name {name} is also that of {first}: let them join one by one, with join_name"
        if problem:
            found.append(f"{target}: {problem}")
        elif name in known and known[name]["state"] == "member" and look["mesh"].get("generation"):
            already.append(name)
    return found, already


def _newcomer_problem(newcomer: Newcomer, known: dict[str, dict], generations: set[str]) -> str:
    name, look = newcomer.name, newcomer.look
    if not records.DNS_LABEL.fullmatch(name) or name in records.RESERVED_NAMES:
        return f"its host name {records.shown(name)} is none that a node may have: give it one with join_name, lower-case letters, digits and -"
    generation, key = look["mesh"].get("generation"), look["cjdns"].get("public_key")
    if generation and generations and generation not in generations:
        return (
            "it belongs to another mesh, or has left one and still has its data. Two meshes are never merged: let it leave there with leave_wipe=true, "
            "or move /etc/vdloo-mesh, /var/lib/vdloo-mesh and Consul's data away on it"
        )
    record = known.get(name)
    owner = next(
        (other for other, entry in sorted(known.items()) if key and entry["public_key"] == key and entry["state"] == "member"), name
    )
    if any(entry["state"] == "revoked" for entry in known.values() if entry["name"] == name or (key and entry["public_key"] == key)):
        return f"it {REVOKED}"
    if owner != name:
        return f"it is {owner} in this mesh already: say join_name={owner}, or let {owner} leave first"
    if record and record["state"] == "member" and key != record["public_key"]:
        return (
            f"the name {name} is that of a member with another key: give it another one with join_name. If it is that member, and was set up anew: "
            f"let the old one go first (vdloo.mesh.leave with leave={name} leave_gone=true)"
        )
    return ""


def joining_problems(names: typing.Iterable[str], known: dict[str, dict]) -> list[str]:
    return [f"{name} {REVOKED}" for name in sorted(names) if name in known and known[name]["state"] == "revoked"]


def leaving_problems(asked: Leaving, known: dict[str, dict], looks: dict[str, dict]) -> list[str]:
    """List why these nodes cannot go, but for the quorum's sake. `known` is the registry before they went."""
    found = []
    members = {name for name, record in known.items() if record["state"] == "member"}
    alive = {member["name"] for look in looks.values() for member in look["consul"].get("members") or [] if member["alive"]}
    for name in sorted(asked.names):
        if name not in known:
            found.append(f"{name} is no node of the mesh, so it cannot leave. Its nodes are: {', '.join(sorted(members)) or 'none'}")
        elif asked.is_orderly and name not in looks and (name in members or name in alive):
            found.append(
                f"{name} does not answer, and has to do its part: bring it up and run again, or run this on {name} itself. "
                "If it never comes back: leave_gone=true"
            )
        elif asked.gone and asked.state == "left" and (name in looks or name in alive):
            found.append(f"{name} is alive, so it is not gone: leave leave_gone out, and it leaves in an orderly way")
    if not members - asked.names:
        found.append(f"{', '.join(sorted(asked.names))} would leave nobody in the mesh: the last node has nobody to leave")
    stay = set(looks) & (members - asked.names)
    if found or has_begun(asked, known):
        return found
    if not stay:
        found.append("none of the nodes that stay answers, so nobody could be told: let one of them be reached")
    elif asked.is_orderly and not any(looks[name]["consul"].get("leader") for name in stay):
        found.append("Consul has no leader now, without whom nobody leaves in an orderly way: bring the quorum back first (docs/quorum.md)")
    return found


def has_begun(asked: Leaving, known: dict[str, dict]) -> bool:
    """Whether all of them have left for whoever looks into the registry: what is left to do, a node that was cut off by then can do alone."""
    return bool(asked.names) and all(name in known and known[name]["state"] != "member" for name in asked.names)


def quorum_problem(asked: Leaving, nodes: list[dict], servers: list[str]) -> str:
    """Say why the quorum would not outlive the departure; empty when it does. See quorum.departure_problem()."""
    problem = quorum.departure_problem(nodes, set(asked.names), servers)
    return f"{', '.join(sorted(asked.names))} cannot leave now: {problem}" if problem else ""


def keeper(asked: Leaving, looks: dict[str, dict]) -> str:
    """A node that stays and sees the leader, for what is to be done once; empty without one."""
    return next((name for name in sorted(looks) if name not in asked.names and looks[name]["consul"].get("leader")), "")
