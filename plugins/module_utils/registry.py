# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Node records: how they are made from an inventory, checked, and merged.

A registry is a dictionary {name: record}. A record is a dictionary of plain JSON values:

    name             str, a DNS label; also the key
    public_key       str, "<52 characters>.k"
    address          str, the overlay address (IPv6, compressed)
    overlay          str, "cjdns"
    endpoints        list of {"address": "IP:PORT" or "[IP]:PORT", "zone": str}
    zones            list of str, the zones whose endpoints this node can dial, besides "public"
    site             str, "" when not told
    server_eligible  bool, whether it may be a Consul server
    state            str: member, left or revoked
    version          int, counts the changes of this record
    updated          str, UTC time of the last change, ISO 8601 with seconds

Pure: data in, data out; nothing of Ansible.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re

PUBLIC_ZONE = "public"
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ZONE = re.compile(r"[a-z0-9]([a-z0-9_-]{0,62})?")
# Names with which Ansible or the mesh itself means something else.
RESERVED_NAMES = ("all", "localhost", "mesh", "ungrouped")


def parse_endpoint(value: object) -> dict[str, str]:
    """Turn an endpoint as the operator writes it into {"address", "zone"}.

    `value` is "IP:PORT" (zone public) or {"address": "IP:PORT", "zone": str}. Raises ValueError with what is wrong and what to write.
    """
    if isinstance(value, str):
        value = {"address": value}
    if not isinstance(value, dict) or set(value) - {"address", "zone"} or not isinstance(value.get("address"), str):
        raise ValueError(f"{value!r} is not an endpoint: write 192.0.2.1:4321, or a mapping with address and zone")
    text, zone = value["address"], value.get("zone", PUBLIC_ZONE)
    if not isinstance(zone, str) or not ZONE.fullmatch(zone):
        raise ValueError(f"the zone {zone!r} of endpoint {text} is not a name: use lower-case letters, digits, - and _")
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    if not match:
        raise ValueError(f"{text!r} is not a literal IP:PORT (a host name cannot be dialled): write 192.0.2.1:4321 or [2001:db8::1]:4321")
    try:
        address = ipaddress.ip_address(match.group(1) or match.group(2))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a literal IP:PORT: {error}") from error
    port = int(match.group(3))
    if not 1 <= port <= 65535:
        raise ValueError(f"the port of {text!r} is not between 1 and 65535")
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"{text!r} is an address that no other node can dial: give the one that others see")
    host = f"[{address}]" if address.version == 6 else str(address)
    return {"address": f"{host}:{port}", "zone": zone}


def describe(name: str, variables: dict) -> dict:
    """Make the part of a record that the inventory tells, from a host's variables. Raises ValueError as parse_endpoint does."""
    endpoints = [parse_endpoint(value) for value in _strings_or_dicts(variables, "mesh_endpoints")]
    zones = _strings_or_dicts(variables, "mesh_zones")
    for zone in zones:
        if not isinstance(zone, str) or not ZONE.fullmatch(zone):
            raise ValueError(f"mesh_zones: {zone!r} is not a name: use lower-case letters, digits, - and _")
    site = variables.get("mesh_site", "")
    if not isinstance(site, str):
        raise ValueError(f"mesh_site: {site!r} is not a string")
    return {
        "name": str(name),
        "endpoints": sorted(endpoints, key=lambda endpoint: (endpoint["zone"], endpoint["address"])),
        "zones": sorted({str(zone) for zone in zones}),
        "site": str(site),
    }


def _strings_or_dicts(variables: dict, key: str) -> list:
    value = variables.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{key}: {value!r} is not a list")
    return value


def inventory_problems(hosts: dict[str, dict]) -> list[str]:
    """List what is wrong with an inventory's hosts: {name: variables}. Each line names the host, the variable and the cure."""
    problems = []
    folded: dict[str, str] = {}
    logins: dict[tuple[str, str], str] = {}
    claimed: dict[tuple[str, str], str] = {}
    for name in sorted(hosts):
        variables = hosts[name]
        if not DNS_LABEL.fullmatch(name):
            problems.append(
                f"host {name}: the name is not a DNS label: use up to 63 lower-case letters, digits and -, "
                "and put the address into ansible_host"
            )
        if name in RESERVED_NAMES:
            problems.append(f"host {name}: this name is taken by the inventory itself: rename the host")
        first = folded.setdefault(name.lower(), name)
        if first != name:
            problems.append(f"host {name}: host {first} has the same name but for upper and lower case: rename one of them")
        login = (str(variables.get("ansible_host", name)), str(variables.get("ansible_port", 22)))
        first = logins.setdefault(login, name)
        if first != name and variables.get("ansible_connection", "ssh") == "ssh":
            problems.append(
                f"host {name}: ansible_host {login[0]}, port {login[1]}, is also that of host {first}: "
                "one machine is one node, remove one of the two names"
            )
        try:
            record = describe(name, variables)
        except ValueError as error:
            prefix = "" if str(error).startswith("mesh_") else "mesh_endpoints: "
            problems.append(f"host {name}: {prefix}{error}")
            continue
        for endpoint in record["endpoints"]:
            first = claimed.setdefault((endpoint["address"], endpoint["zone"]), name)
            if first != name:
                problems.append(
                    f"host {name}: mesh_endpoints: {endpoint['address']} in zone {endpoint['zone']} is also that of host {first}: "
                    "give each node its own port, or put them in different zones"
                )
    return problems


def identity_problems(registry: dict[str, dict]) -> list[str]:
    """List the members that share a key, as two machines from one disk image do."""
    problems = []
    owners: dict[str, str] = {}
    for name in sorted(registry):
        record = registry[name]
        if record["state"] != "member":
            continue
        first = owners.setdefault(record["public_key"], name)
        if first != name:
            problems.append(
                f"nodes {first} and {name} have the same key (a cloned disk, or a renamed node?): on the newer of the two "
                "move /etc/cjdns/identity.json away and run again, or take the old name out of the mesh"
            )
    return problems


def digest(record: dict) -> str:
    """SHA-256 of a record as canonical JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def merge(*registries: dict[str, dict]) -> dict[str, dict]:
    """Merge registries, node by node: the higher (version, updated, digest) wins.

    Commutative, associative and idempotent, so any order of exchanges ends in the same registry. A revoked record beats every
    other of the same name.
    """
    merged: dict[str, dict] = {}
    for registry in registries:
        for name, record in registry.items():
            if name not in merged or _rank(record) > _rank(merged[name]):
                merged[name] = record
    return dict(sorted(merged.items()))


def _rank(record: dict) -> tuple:
    return (record["state"] == "revoked", record["version"], record["updated"], digest(record))


def update(registry: dict[str, dict], told: dict, now: str) -> dict[str, dict]:
    """Return the registry with the record of one node as this run found it.

    `told` holds all fields but version and updated. A record that says the same is kept as it is, so that an unchanged mesh has an
    unchanged registry. A revoked node stays revoked.
    """
    known = registry.get(told["name"])
    if known is not None:
        if {key: value for key, value in known.items() if key not in ("version", "updated")} == told:
            return registry
        if known["state"] == "revoked":
            return registry
    version = known["version"] + 1 if known else 1
    return {**registry, told["name"]: {**told, "version": version, "updated": now}}
