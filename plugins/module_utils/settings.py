# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the operator set: one versioned record that every node keeps beside the registry.

A record is a dictionary of plain JSON values, {} while nobody has set anything:

    version    int, counts the changes
    updated    str, UTC time of the last change, ISO 8601 with seconds
    by         str, the machine on which it was made
    values     {"mesh": {variable: value}, "hosts": {name: {variable: value}}, "consul_servers": [names] or None, "withheld": [variables]},
               and "collection", the SHA-256 of the build of this collection that the nodes run, once that is known
    ancestors  list of str, short digests of the records that this one came from, the last one last

A value of a host counts more than the same variable's of the mesh. What is withheld was set, and is a secret that does not travel.

Pure: data in, data out; nothing of Ansible.
"""

from __future__ import annotations

import json
import re
import typing
from collections import Counter

from ansible_collections.vdloo.mesh.plugins.module_utils import digest
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records

ROLES = ("node", "cjdns", "consul", "dnsmasq", "h2o", "converger")
# What no role reads, but the plan and whoever acts for the whole mesh.
MESH_WIDE = ("consul_server_policy", "mesh_canary", "mesh_convergers", "mesh_minimum_nodes")
# What a run works out for itself and hands to the roles.
HANDED_OVER = {
    "cjdns_authorized_passwords",
    "cjdns_peers",
    "consul_after_units",
    "consul_bind_address",
    "consul_bootstrap_expect",
    "consul_gossip_key",
    "consul_retry_join",
    "consul_server",
    "consul_voters",
    "consul_watches",
    "converger_collection_sha256",
    "h2o_mesh_routes",
    "node_mesh_hosts",
    "node_seeds",
}
# Consul takes 512 KiB for a value; base64 makes it a third longer.
MAX_BYTES = 256 * 1024
MAX_BY = 255
MOST_ANCESTORS = 32
ANCESTOR_CHARS = 16
VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,99}")
ANCESTOR = re.compile(rf"[0-9a-f]{{{ANCESTOR_CHARS}}}")
BUILD = re.compile(r"[0-9a-f]{64}")
VALUES = ("mesh", "hosts", "consul_servers", "withheld")
NO_VALUES: dict[str, typing.Any] = {"mesh": {}, "hosts": {}, "consul_servers": None, "withheld": []}
# What the digest of no settings is.
NO_DIGEST = digest.of({})

Variables = typing.Dict[str, typing.Any]


def is_setting(variable: str) -> bool:
    """Whether a variable is one that travels. Whatever else a record holds is never used: it may have come from anywhere."""
    return variable in MESH_WIDE or (
        role_of(variable) in ROLES and VARIABLE.fullmatch(variable) is not None and variable not in HANDED_OVER
    )


def role_of(variable: str) -> str:
    """The role that a variable belongs to by its name."""
    return variable.partition("_")[0]


def problem(record: object) -> str:
    """Say what is wrong with a record that came from elsewhere; empty when nothing is. Never raises, whatever it is given."""
    if record == {}:
        return ""
    if not isinstance(record, dict):
        return "they are not a JSON object"
    try:
        size = len(json.dumps(record, check_circular=False))
    except (TypeError, ValueError, RecursionError):
        return "they are not plain JSON"
    if size > MAX_BYTES:
        return f"they are {size} bytes long, {MAX_BYTES} are the most"
    wrong = [field for field, holds in _FIELDS.items() if field not in record or not holds(record[field])]
    return f"they have no valid {', '.join(wrong)}" if wrong else ""


def merge(*found: dict) -> dict:
    """The record that counts: the one with the highest (version, updated, digest).

    Commutative, associative and idempotent, so any order of exchanges ends in the same settings.
    """
    newest: dict = {}
    for record in found:
        if record and (not newest or _rank(record) > _rank(newest)):
            newest = record
    return newest


def conflicts(*found: dict) -> list[str]:
    """Say of each record that the one that counts did not come from who set it when, and what of it does not count."""
    newest = merge(*found)
    told = []
    for record in sorted(_distinct(found), key=_rank):
        if record == newest or short(record) in newest["ancestors"] or record["version"] < newest["version"] - len(newest["ancestors"]):
            continue
        lost = ", ".join(name for name, _how in differences(newest["values"], record["values"])) or "nothing"
        told.append(
            f"settings were made on {_where(record)} and, apart from them, on {_where(newest)}: the latter count. What differs: {lost}. "
            "Set on any one machine what you want of it, and run again"
        )
    return told


def collect(hosts: dict[str, Variables], servers: list[str] | None = None, withheld: typing.Iterable[str] = ()) -> dict[str, typing.Any]:
    """Make the values of a record of what is set for each host: what is the same on more than half of those that all have it is the mesh's.

    Each host is named in the result, also one without values of its own. `servers` are the servers that the operator lists, None without a list.
    """
    return {
        **_shaped(hosts, NO_VALUES, few=False),
        "consul_servers": sorted(servers) if servers is not None else None,
        "withheld": sorted(set(withheld)),
    }


def update(known: dict, values: dict, now: str, by: str, few: bool = False) -> dict:
    """Return the record with these values, those of collect(), for the hosts that they name; all other hosts keep their own.

    Values that say the same keep the record, and a variable that says the same for those hosts keeps its place. With `few`, which is for one host out of
    many, the mesh's values stay. Raises ValueError when the record would be too long.
    """
    before = known.get("values") or NO_VALUES
    hosts = {name: effective(values, name) for name in values["hosts"]}
    wanted = {
        **_shaped(hosts, before, few),
        "consul_servers": values["consul_servers"],
        "withheld": sorted({*values["withheld"], *(before["withheld"] if few else [])}),
    }
    wanted["hosts"] = {name: own for name, own in wanted["hosts"].items() if own}
    collection = values.get("collection") or before.get("collection")
    if collection:
        wanted["collection"] = collection
    if digest.of(wanted) == digest.of(before):
        return known
    record = {
        "version": known["version"] + 1 if known else 1,
        "updated": now,
        "by": by[:MAX_BY],
        "values": wanted,
        "ancestors": [*known["ancestors"], short(known)][-MOST_ANCESTORS:] if known else [],
    }
    size = len(json.dumps(record))
    if size > MAX_BYTES:
        raise ValueError(_too_long(size, wanted))
    return record


def effective(values: dict, name: str) -> Variables:
    """All that is set for a host."""
    return {**values["mesh"], **values["hosts"].get(name, {})}


def for_host(record: dict, name: str) -> Variables:
    """The variables of a host that a run may use."""
    return {**for_mesh(record), **of_host(record, name)}


def for_mesh(record: dict) -> Variables:
    """The variables that a run may use for all hosts that have no others."""
    return _usable((record.get("values") or NO_VALUES)["mesh"])


def of_host(record: dict, name: str) -> Variables:
    """The variables that are a host's own."""
    return _usable((record.get("values") or NO_VALUES)["hosts"].get(name, {}))


def seen_by(record: dict, name: str) -> Variables:
    """All of a record that makes a difference for a host."""
    values = record.get("values") or NO_VALUES
    return {**for_host(record, name), "servers": values["consul_servers"], "build": values.get("collection", "")}


def three_way(base: Variables, mine: Variables, newest: Variables) -> Variables:
    """The newest variables of a host, with what `mine` changed of `base`."""
    return {
        **{variable: value for variable, value in newest.items() if variable in mine or variable not in base},
        **{variable: value for variable, value in mine.items() if variable not in base or not same(value, base[variable])},
    }


def differences(before: dict, after: dict) -> list[tuple[str, str]]:
    """What differs between two sets of values: pairs of a variable, with the host where it is one's own, and "new", "gone" or "other"."""
    found = _changed("", before["mesh"], after["mesh"])
    for name in sorted({*before["hosts"], *after["hosts"]}):
        found += _changed(f" of {name}", before["hosts"].get(name, {}), after["hosts"].get(name, {}))
    if before["consul_servers"] != after["consul_servers"]:
        found.append(("the group consul_servers", "other"))
    if before.get("collection", "") != after.get("collection", ""):
        found.append(("the build of the collection", "other"))
    return found


def same(one: object, other: object) -> bool:
    """Whether two values are the same JSON; Python takes 1, 1.0 and true for one."""
    return type(one) is type(other) and (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True) if isinstance(one, (dict, list)) else one == other
    )


def short(record: dict) -> str:
    """Enough to tell a record from those before and after it."""
    return digest.of(record)[:ANCESTOR_CHARS]


def _usable(variables: Variables) -> Variables:
    return {variable: value for variable, value in variables.items() if is_setting(variable)}


def _where(record: dict) -> str:
    return f"{record['by']} ({record['updated']}, version {record['version']})"


def _rank(record: dict) -> tuple:
    return (record["version"], record["updated"], digest.of(record))


def _distinct(found: typing.Iterable[dict]) -> list[dict]:
    return list({digest.of(record): record for record in found if record}.values())


def _changed(where: str, before: Variables, after: Variables) -> list[tuple[str, str]]:
    told = []
    for variable in sorted({*before, *after}):
        if variable not in before or variable not in after:
            told.append((variable + where, "gone" if variable in before else "new"))
        elif not same(before[variable], after[variable]):
            told.append((variable + where, "other"))
    return told


def _shaped(hosts: dict[str, Variables], before: dict, few: bool) -> dict[str, dict]:
    """{"mesh", "hosts"} that give each host exactly its variables; but for a few, who get those of the mesh as well."""
    known = {name: effective(before, name) for name in hosts}
    mesh: Variables = {}
    own: dict[str, Variables] = {name: dict(found) for name, found in before["hosts"].items() if name not in hosts}
    own.update({name: {} for name in hosts})
    for variable in sorted({name for found in (before["mesh"], *known.values(), *hosts.values()) for name in found}):
        told = {name: found[variable] for name, found in hosts.items() if variable in found}
        if few or _says_the_same(variable, known, told):
            common = [before["mesh"][variable]] if variable in before["mesh"] else []
        elif len(told) < len(hosts):
            common = []
        else:
            common = _common(list(told.values())) or ([before["mesh"][variable]] if variable in before["mesh"] else [])
        if common:
            mesh[variable] = common[0]
        kept = before["hosts"] if not few and _says_the_same(variable, known, told) else {}
        for name, value in told.items():
            if not common or variable in kept.get(name, {}) or not same(value, common[0]):
                own[name][variable] = value
    return {"mesh": mesh, "hosts": own}


def _says_the_same(variable: str, known: dict[str, Variables], told: dict[str, typing.Any]) -> bool:
    before = {name: found[variable] for name, found in known.items() if variable in found}
    return set(before) == set(told) and all(same(value, told[name]) for name, value in before.items())


def _common(values: list) -> list:
    """The one value that more than half have; nothing without one."""
    counted = Counter(json.dumps(value, sort_keys=True) for value in values)
    text, number = counted.most_common(1)[0]
    return [json.loads(text)] if number * 2 > len(values) else []


def _too_long(size: int, values: dict) -> str:
    sizes = {variable: len(json.dumps(value)) for found in (*values["hosts"].values(), values["mesh"]) for variable, value in found.items()}
    largest = max(sorted(sizes), key=lambda variable: sizes[variable], default="withheld")
    return (
        f"the settings of the mesh are {size} bytes long, and {MAX_BYTES} are the most that every node keeps: the longest is {largest}. "
        "Put what is long into a file on the nodes, and name that file"
    )


def _are_variables(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and VARIABLE.fullmatch(name) for name in value)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and records.DNS_LABEL.fullmatch(name) for name in value)


def _are_values(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) - {"collection"} == set(VALUES)
        and (
            value.get("collection", "") == "" or (isinstance(value["collection"], str) and BUILD.fullmatch(value["collection"]) is not None)
        )
        and _are_variables(value["mesh"])
        and isinstance(value["hosts"], dict)
        and _are_names(list(value["hosts"]))
        and all(_are_variables(own) for own in value["hosts"].values())
        and (value["consul_servers"] is None or _are_names(value["consul_servers"]))
        and isinstance(value["withheld"], list)
        and _are_variables({name: None for name in value["withheld"] if isinstance(name, str)})
        and all(isinstance(name, str) for name in value["withheld"])
    )


_FIELDS: dict[str, typing.Callable[[object], bool]] = {
    "version": lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**53,
    "updated": lambda value: isinstance(value, str) and records.UPDATED.fullmatch(value) is not None,
    "by": lambda value: isinstance(value, str) and len(value) <= MAX_BY and value.isprintable(),
    "values": _are_values,
    "ancestors": lambda value: (
        isinstance(value, list)
        and len(value) <= MOST_ANCESTORS
        and all(isinstance(name, str) and ANCESTOR.fullmatch(name) for name in value)
    ),
}
