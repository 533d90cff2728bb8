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
    arch             str, the machine's architecture as `uname -m` says it, "" when not known
    ssh              {"user": str, "port": int, "host_key": str}: how to log in at the overlay address; the key as in known_hosts. And "key":
                     str, the node's own public key "ssh-ed25519 AAAA...", which all members let in; not there while it has none
    server_eligible  bool, whether it may be a Consul server
    state            str: member, left or revoked
    version          int, counts the changes of this record
    updated          str, UTC time of the last change, ISO 8601 with seconds

Pure: data in, data out; nothing of Ansible.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing
from collections.abc import Callable

from ansible_collections.vdloo.mesh.plugins.module_utils import authorized_keys, digest, routes
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import keys

PUBLIC_ZONE = "public"
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ZONE = re.compile(r"[a-z0-9]([a-z0-9_-]{0,62})?")
# Names with which Ansible or the mesh itself means something else.
RESERVED_NAMES = ("all", "localhost", "mesh", "ungrouped")

STATES = ("member", "left", "revoked")
# The record of a node that goes counts more than so many changes of it that were made apart from it, by runs that had not heard of it.
DEPARTURE = 1000
# A record is about 600 bytes; whoever needs more than this has something else in mind.
MAX_RECORD_BYTES = 16 * 1024
MAX_SITE = 128
# What may stand in a login, a host key and a site, so that none of them can become an option, a second line or a terminal's command.
SSH_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
SSH_HOST_KEY = re.compile(r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]{16,4096}={0,2}")
ARCH = re.compile(r"[A-Za-z0-9_.-]{0,32}")
UPDATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


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
    if not _text(MAX_SITE)(site):
        raise ValueError(f"mesh_site: {site!r} is not one line of up to {MAX_SITE} characters")
    eligible = variables.get("mesh_server_eligible", True)
    if not isinstance(eligible, bool):
        raise ValueError(f"mesh_server_eligible: {eligible!r} is neither true nor false")
    return {
        "name": str(name),
        "endpoints": sorted(endpoints, key=lambda endpoint: (endpoint["zone"], endpoint["address"])),
        "zones": sorted({str(zone) for zone in zones}),
        "site": str(site),
        "server_eligible": eligible,
    }


def access(variables: dict, known: dict | None) -> dict:
    """Make the part of a record that tells how to log in: {"arch", "ssh"}.

    `variables` are the host's; node_access among them is what the node told of itself. What nobody tells stays as in `known`, the
    record so far: a run on the node itself comes by no SSH.
    """
    told = variables.get("node_access") or {}
    before = (known or {}).get("ssh") or {}
    # The inventory's port may be one that a router forwards to another, and text: it is the last thing to believe.
    written = str(variables.get("ansible_port", ""))
    ports = (told.get("ssh_port"), before.get("port"), int(written) if written.isdecimal() else 0)
    users = (told.get("ssh_user"), before.get("user"), variables.get("ansible_user"))
    key = _first(_like(authorized_keys.KEY), told.get("ssh_key"), before.get("key"))
    return {
        "arch": _first(_like(ARCH), told.get("arch"), (known or {}).get("arch")) or "",
        "ssh": {
            "user": _first(_like(SSH_USER), *users) or "root",
            "port": _first(_whole(1, 65535), *ports) or 22,
            "host_key": _first(_like(SSH_HOST_KEY), told.get("ssh_host_key"), before.get("host_key")) or "",
            **({"key": key} if key else {}),
        },
    }


def _first(holds: Callable[[object], bool], *values: object) -> typing.Any:
    """The first of the values that is not empty and that a sound record may hold; None when there is none."""
    return next((value for value in values if value and holds(value)), None)


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


def record_problem(name: object, record: object) -> str:
    """Say what is wrong with a record that came from elsewhere; empty when nothing is. Never raises, whatever it is given.

    A record without `arch` or `ssh` is one of an older version, and one without `routes` has none to tell of; fields that are not known are one of a newer.
    """
    if not isinstance(name, str) or not DNS_LABEL.fullmatch(name) or name in RESERVED_NAMES:
        return "its name is not a DNS label that a node may have"
    if not isinstance(record, dict):
        return "it is not a JSON object"
    try:
        if len(json.dumps(record, check_circular=False)) > MAX_RECORD_BYTES:
            return f"it is longer than {MAX_RECORD_BYTES} bytes"
    except (TypeError, ValueError, RecursionError):
        return "it is not plain JSON"
    if record.get("name") != name:
        return "its name is not the one that it is kept under"
    wrong = [field for field, holds in _FIELDS.items() if field not in record or not holds(record[field])]
    wrong += [field for field, holds in _LATER_FIELDS.items() if field in record and not holds(record[field])]
    if wrong:
        return f"it has no valid {', '.join(wrong)}"
    if record["overlay"] == "cjdns":
        try:
            address = keys.address_from_public(record["public_key"])
        except keys.KeyFormatError as error:
            return f"its public_key is none: {error}"
        # Both are nearly always written the same.
        if record["address"] != address and ipaddress.ip_address(record["address"]) != ipaddress.ip_address(address):
            return "its address is not that of its public_key"
    return ""


def sift(found: dict, sound: dict[str, dict]) -> tuple[dict[str, dict], dict[str, str]]:
    """Sort what is said to be a registry into the records that can be true and what is wrong with the others, both by name.

    `sound` holds records that were looked at already; what equals one of them is not looked at again.
    """
    problems = {name: "" if name in sound and sound[name] == record else record_problem(name, record) for name, record in found.items()}
    return {name: found[name] for name in found if not problems[name]}, {name: told for name, told in problems.items() if told}


def shown(value: object) -> str:
    """A value of a stranger, fit for a message: one line of plain characters, not too long."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _text(most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and len(value) <= most and value.isprintable()


def _like(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _whole(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and ipaddress.ip_address(value).version == 6
    except ValueError:
        return False


def _are_endpoints(value: object) -> bool:
    try:
        return isinstance(value, list) and all(isinstance(entry, dict) and parse_endpoint(entry) == entry for entry in value)
    except ValueError:
        return False


def _is_ssh(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _like(SSH_USER)(value.get("user"))
        and _whole(1, 65535)(value.get("port"))
        and (value.get("host_key") == "" or _like(SSH_HOST_KEY)(value.get("host_key")))
        and ("key" not in value or _like(authorized_keys.KEY)(value["key"]))
    )


_FIELDS: dict[str, Callable[[object], bool]] = {
    "public_key": _text(64),
    "address": _is_address,
    "overlay": _like(ZONE),
    "endpoints": _are_endpoints,
    "zones": lambda value: isinstance(value, list) and all(_like(ZONE)(zone) for zone in value),
    "site": _text(MAX_SITE),
    "server_eligible": lambda value: isinstance(value, bool),
    "state": lambda value: value in STATES,
    "version": _whole(1, 2**53),
    "updated": _like(UPDATED),
}
_LATER_FIELDS: dict[str, Callable[[object], bool]] = {"arch": _like(ARCH), "ssh": _is_ssh, "routes": routes.are_told}


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
    return (record["state"] == "revoked", record["version"], record["updated"], digest.of(record))


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


def depart(registry: dict[str, dict], name: str, state: str, now: str) -> dict[str, dict]:
    """Return the registry with a node that goes, its record kept as a tombstone. `state` is left or revoked; a revoked node stays revoked.

    No concurrent change of the record brings the node back: see DEPARTURE. Taking it in again is one more change of the tombstone.
    """
    known = registry[name]
    if known["state"] in (state, "revoked"):
        return registry
    return {**registry, name: {**known, "state": state, "version": known["version"] + DEPARTURE, "updated": now}}
