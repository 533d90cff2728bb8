# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One view of the mesh out of what each source says.

Pure: data in, data out; nothing of Ansible. Whatever a source says is checked here: what cannot be true is left out with a warning that
names it, and never takes anything else with it.

Who is believed:

    which nodes there are  the registry, file and KV merged; then Consul's members; the peers of cjdns only when nobody else tells
    the address            the registry's, which follows from the node's key
    the status             Consul's gossip
    whether it answers     Consul's gossip or a live link of cjdns, whoever says yes; without Consul also its sshd, which was asked then;
                           never a node that has left or was revoked
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns.admin import ESTABLISHED, LIVE_SILENCE_MS
from ansible_collections.vdloo.mesh.plugins.module_utils.collector import SERVICE_NAME

# Serf's numbers. A node that is leaving is as good as gone.
STATUS = {1: "alive", 2: "left", 3: "left", 4: "failed"}
REGISTRY_KEY = "registry/"
CONVERGED_KEY = "converged/"
SEVERITY = ("passing", "warning", "critical")
CJDNS_STATE = re.compile(r"[A-Z0-9_]{1,32}")
# More than this helps nobody; a hostile source could tell as many as it likes.
MOST_WARNINGS = 50


class Node(typing.TypedDict):
    """All that is known of one node; the host variables are made of it, each with the prefix mesh_."""

    name: str
    address: str
    public_key: str
    status: str  # alive, failed, left or unknown
    consul_status: str  # the same in Consul's words, "" when it said nothing
    cjdns_state: str  # state of the link between the node that was asked and this one, "" when there is none
    reachable: bool
    conflicts: list[str]
    role: str  # server, client or "" when not known
    site: str
    zones: list[str]
    endpoints: list[dict[str, str]]
    arch: str
    ssh: dict[str, typing.Any]  # {user, port, host_key}, {} when not known
    peers: list[str]
    services: dict[str, str]
    sources: list[str]
    state: str  # member, left, revoked or unknown
    server_eligible: bool
    converged: str


def merge(answers: dict[str, typing.Any]) -> tuple[list[Node], list[str]]:
    """Merge the collector's answers, {source: answer}, into nodes sorted by name, and what was left out and why."""
    warnings: list[str] = []
    kv = _texts(answers.get("kv"))
    in_file = _sound(answers.get("registry"), {}, "registry file", warnings)
    told = {"registry": in_file, "kv": _sound(_parsed(kv, REGISTRY_KEY, warnings), in_file, "Consul KV", warnings)}
    members = _members(answers.get("consul"), warnings)
    registry = records.merge(told["registry"], told["kv"])
    registry = _one_owner_each(registry, told["registry"], members, warnings)
    nodes = {name: _from_record(record, [source for source in told if name in told[source]]) for name, record in registry.items()}
    _add_members(nodes, members, warnings)
    _add_links(nodes, answers.get("cjdns"), warnings)
    answering = answers.get("answering")
    for node in nodes.values():
        if isinstance(answering, list) and node["address"] in answering and node["state"] == "member":
            node["reachable"] = True
    _add_services(nodes, answers.get("services"))
    converged = _parsed(kv, CONVERGED_KEY, warnings)
    for name, node in nodes.items():
        at = converged[name].get("at") if isinstance(converged.get(name), dict) else None
        node["converged"] = at if isinstance(at, str) and records.UPDATED.fullmatch(at) else ""
        node["sources"].sort()
    if len(warnings) > MOST_WARNINGS:
        warnings[MOST_WARNINGS:] = [f"and {len(warnings) - MOST_WARNINGS} more of the kind"]
    return [nodes[name] for name in sorted(nodes)], warnings


def _address(value: object) -> str:
    """An address in its one short form; empty when it is none."""
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""


def _texts(answer: object) -> dict[str, str]:
    if not isinstance(answer, dict):
        return {}
    return {key: value for key, value in answer.items() if isinstance(key, str) and isinstance(value, str)}


def _parsed(kv: dict[str, str], folder: str, warnings: list[str]) -> dict[str, typing.Any]:
    """The values below a folder of the KV, read as JSON."""
    found = {}
    for key, text in kv.items():
        if not key.startswith(folder) or key == folder:
            continue
        try:
            found[key[len(folder) :]] = json.loads(text)
        except (ValueError, RecursionError):
            warnings.append(f"Consul KV: {records.shown(key)} was left out: its value is not JSON")
    return found


def _sound(registry: object, checked: dict[str, dict], source: str, warnings: list[str]) -> dict[str, dict]:
    """The records of a registry that can be true; those that are in `checked` already need no second look."""
    sound, problems = records.sift(registry if isinstance(registry, dict) else {}, checked)
    warnings.extend(f"{source}: the node record {records.shown(name)} was left out: {problem}" for name, problem in problems.items())
    return sound


def _members(answer: object, warnings: list[str]) -> dict[str, dict]:
    """Consul's members {name: {address, status, role}}, the names and addresses of which can be true."""
    found: dict[str, dict] = {}
    listed = answer.get("members") if isinstance(answer, dict) else None
    for member in listed if isinstance(listed, list) else ():
        name, address = (member.get("name"), member.get("address")) if isinstance(member, dict) else (None, None)
        if not isinstance(name, str) or not records.DNS_LABEL.fullmatch(name) or name in records.RESERVED_NAMES:
            warnings.append(f"Consul: the member {records.shown(name)} was left out: its name is not a DNS label that a node may have")
            continue
        address = _address(address)
        if not address:
            warnings.append(f"Consul: the member {name} was left out: its address {records.shown(member.get('address'))} is none")
            continue
        role = member.get("role")
        status = member.get("status")
        found[name] = {
            "address": address,
            "status": STATUS.get(status, "unknown") if isinstance(status, int) else "unknown",
            "role": role if role in ("server", "client") else "",
        }
    return found


def _one_owner_each(registry: dict, trusted: dict, members: dict, warnings: list[str]) -> dict[str, dict]:
    """Leave out whoever claims the key of another node.

    The owner is whom the file on the node (which is root's) says, then the Consul member that really has the key's address, then whoever
    was there first.
    """
    claims: dict[str, list[str]] = {}
    for name, record in registry.items():
        if record["state"] == "member":
            claims.setdefault(record["public_key"], []).append(name)
    kept = dict(registry)
    for key, names in claims.items():
        if len(names) == 1:
            continue

        def order(name: str, key: str = key) -> tuple:
            record = registry[name]
            in_file = name in trusted and trusted[name]["public_key"] == key and trusted[name]["state"] == "member"
            at_home = name in members and members[name]["address"] == str(ipaddress.ip_address(record["address"]))
            return (not in_file, not at_home, record["updated"], name)

        owner, *others = sorted(names, key=order)
        for name in others:
            warnings.append(f"the node {name} was left out: it claims the key of {owner}")
            del kept[name]
    return kept


def new_node(name: str, address: str) -> Node:
    """A node of which no more is known."""
    return Node(
        name=name,
        address=address,
        public_key="",
        status="unknown",
        consul_status="",
        cjdns_state="",
        reachable=False,
        conflicts=[],
        role="",
        site="",
        zones=[],
        endpoints=[],
        arch="",
        ssh={},
        peers=[],
        services={},
        sources=[],
        state="unknown",
        server_eligible=True,
        converged="",
    )


def _from_record(record: dict, sources: list[str]) -> Node:
    node = new_node(record["name"], str(ipaddress.ip_address(record["address"])))
    for field in ("public_key", "site", "zones", "endpoints", "state", "server_eligible"):
        node[field] = record[field]
    node["arch"], node["ssh"] = record.get("arch", ""), record.get("ssh", {})
    # Until Consul says what it is, a node is what the last run made of it.
    node["role"] = "server" if record["server_eligible"] else "client"
    node["sources"] = sources
    if record["state"] != "member":
        node["status"] = "left"
    return node


def _add_members(nodes: dict[str, Node], members: dict[str, dict], warnings: list[str]) -> None:
    owners = {node["address"]: name for name, node in nodes.items() if node["state"] == "member"}
    for name, member in members.items():
        owner = owners.get(member["address"])
        if owner not in (None, name):
            # A node that changed its name is there twice for a while: its old name has failed or left.
            if member["status"] == "alive" or name in nodes:
                warnings.append(f"Consul: the member {name} was left out: it claims the address of {owner}")
            continue
        node = nodes.setdefault(name, new_node(name, member["address"]))
        node["sources"].append("consul")
        node["consul_status"] = member["status"]
        if node["address"] != member["address"]:
            node["conflicts"].append(f"Consul has it at {member['address']}")
        if node["state"] in ("left", "revoked"):
            if member["status"] == "alive":
                node["conflicts"].append(f"the registry says {node['state']}, Consul says alive")
            continue
        node["status"] = member["status"]
        node["role"] = member["role"] or node["role"]
        node["reachable"] = member["status"] == "alive" and node["address"] == member["address"]


def _add_links(nodes: dict[str, Node], answer: object, warnings: list[str]) -> None:
    """Add what cjdns says of its own node and of its links."""
    if not isinstance(answer, dict):
        return
    own = answer.get("node") if isinstance(answer.get("node"), dict) else {}
    peers = [peer for peer in answer.get("peers") or () if isinstance(peer, dict)] if isinstance(answer.get("peers"), list) else []
    if not nodes:
        _add_peers_as_nodes(nodes, peers, warnings)
    by_address = {node["address"]: node for node in nodes.values()}
    myself = by_address.get(own.get("address"))
    for peer in peers:
        node = by_address.get(peer.get("address"))
        if node is None:
            continue
        state = peer.get("state")
        state = state if isinstance(state, str) and CJDNS_STATE.fullmatch(state) else "UNKNOWN"
        silent = peer.get("silent_ms")
        live = state == ESTABLISHED and isinstance(silent, int) and silent <= LIVE_SILENCE_MS
        # Two links to one node: the better one counts.
        if node["cjdns_state"] != ESTABLISHED or live:
            node["cjdns_state"] = state
        if "cjdns" not in node["sources"]:
            node["sources"].append("cjdns")
        if not live:
            continue
        if node["state"] not in ("left", "revoked"):
            node["reachable"] = True
        if myself is not None and myself is not node:
            for one, other in ((myself, node), (node, myself)):
                if other["name"] not in one["peers"]:
                    one["peers"].append(other["name"])
    for node in nodes.values():
        node["peers"].sort()
        if node["consul_status"] == "failed" and node["reachable"]:
            node["conflicts"].append(f"Consul says failed, cjdns says {node['cjdns_state']}")
        elif node["consul_status"] == "alive" and node["cjdns_state"] not in ("", ESTABLISHED):
            node["conflicts"].append(f"Consul says alive, cjdns says {node['cjdns_state']}")
    if myself is not None:
        if "cjdns" not in myself["sources"]:
            myself["sources"].append("cjdns")
        # The overlay runs on the node that was asked; how else would it have answered.
        if myself["state"] not in ("left", "revoked"):
            myself["reachable"] = True


def _add_peers_as_nodes(nodes: dict[str, Node], peers: list[dict], warnings: list[str]) -> None:
    """Without registry and members the links are all there is; their names are those that the configuration gave them."""
    for peer in peers:
        name, address = peer.get("user"), _address(peer.get("address"))
        if not isinstance(name, str) or not records.DNS_LABEL.fullmatch(name) or name in records.RESERVED_NAMES:
            warnings.append(f"cjdns: the peer {records.shown(peer.get('public_key'))} was left out: it has no name that a node may have")
        elif not address or nodes.setdefault(name, new_node(name, address))["address"] != address:
            warnings.append(f"cjdns: the peer {records.shown(peer.get('public_key'))} was left out: another one has its name {name}")
        else:
            nodes[name]["public_key"] = str(peer.get("public_key"))


def _add_services(nodes: dict[str, Node], services: object) -> None:
    for service, instances in services.items() if isinstance(services, dict) else ():
        if not isinstance(service, str) or not SERVICE_NAME.fullmatch(service) or not isinstance(instances, list):
            continue
        for instance in instances:
            if not isinstance(instance, list) or len(instance) != 2 or instance[1] not in SEVERITY:
                continue
            name, status = instance
            node = nodes.get(name) if isinstance(name, str) else None
            if node is not None:
                known = node["services"].get(service, SEVERITY[0])
                node["services"][service] = max(known, status, key=SEVERITY.index)
