# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which settings count in a run: out of those that the nodes keep, and those of the inventory. Pure.

An inventory of the operator's says what he wants. The inventory plugin says what a node knew, which may be old, and what the user put beside it: of
that only the user's own part counts.
"""

from __future__ import annotations

import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import digest, settings
from ansible_collections.vdloo.mesh.plugins.plugin_utils.inventory_settings import Told

CHANGES = {"other": "differs from what", "new": "is set, which it was not in what", "gone": "is no longer set, unlike in what"}


class Inventory(typing.NamedTuple):
    """Where the variables of a run come from."""

    from_mesh: bool  # the inventory plugin
    used: str  # with it, the digest of the settings that it gave
    servers: list[str]  # without it, the group consul_servers
    few: bool  # it has one host, and the mesh has more
    build: str  # digest of the collection that runs; empty for a node's copy, which follows the settings and never goes before


class Agreed(typing.NamedTuple):
    """The settings that count, and what of them the inventory does not say."""

    record: dict[str, typing.Any]
    changed: dict[str, dict[str, typing.Any]]  # for each host, the variables that have other values
    gone: dict[str, list[str]]  # for each host, the variables that are no longer set
    frozen: dict[str, dict[str, list[str]]]  # for each host, the roles that cannot be judged, and the variables that are missing
    lines: list[str]
    warnings: list[str]


def reach(looks: dict[str, dict], told: Told, inventory: Inventory, now: str, by: str, earlier: dict | None = None) -> Agreed:
    """Agree on the settings; `earlier` is the record on which an earlier plan of this run agreed. Raises ValueError for too much of them."""
    found, warnings = _sound(looks)
    newest = settings.merge(*found)
    lines: list[str] = []
    if earlier is not None:
        record = earlier
    else:
        warnings += settings.conflicts(*found)
        if inventory.from_mesh:
            record, more = _with_the_users_part(found, newest, told, inventory, now, by)
            warnings += more
        else:
            record = _as_the_inventory_says(newest, told, inventory, now, by)
        lines = _lines(newest, record)
        warnings += _withheld(told)
    changed, gone = _missing(record, told)
    frozen = _frozen(record, told) if inventory.from_mesh else {}
    return Agreed(record, changed, gone, frozen, lines, warnings + _left_alone(frozen))


def _sound(looks: dict[str, dict]) -> tuple[list[dict], list[str]]:
    """The settings that nodes keep, and of whom they were left out; one damaged file must not keep the mesh from being repaired."""
    found, warnings = [], []
    for name, look in sorted(looks.items()):
        record = look["mesh"].get("settings") or {}
        problem = "" if record in found else settings.problem(record)
        if problem:
            warnings.append(f"the settings that {name} keeps were left out: {problem}")
        elif record not in found:
            found.append(record)
    return found, warnings


def _as_the_inventory_says(newest: dict, told: Told, inventory: Inventory, now: str, by: str) -> dict:
    known = (newest.get("values") or settings.NO_VALUES)["consul_servers"]
    servers = inventory.servers or (known if inventory.few else None)
    withheld = {variable for kept in told.withheld.values() for variable in kept}
    values = settings.collect(told.variables, servers, withheld)
    return settings.update(newest, {**values, "collection": inventory.build}, now, by, inventory.few)


def _with_the_users_part(found: list[dict], newest: dict, told: Told, inventory: Inventory, now: str, by: str) -> tuple[dict, list[str]]:
    base = next((record for record in (*found, {}) if digest.of(record) == inventory.used), None)
    if base is None:
        others = sorted({variable for kept in _missing(newest, told) for own in kept.values() for variable in own})
        return newest, (
            [
                "settings: no node of this run keeps those that the inventory was made of, so the newest of the nodes count, also for "
                f"{', '.join(others)}: run again, with --flush-cache if the inventory is cached"
            ]
            if others
            else []
        )
    wanted = {
        name: settings.three_way(settings.for_host(base, name), own, settings.for_host(newest, name))
        for name, own in told.variables.items()
    }
    values = newest.get("values") or settings.NO_VALUES
    withheld = {variable for kept in told.withheld.values() for variable in kept} | set(values["withheld"])
    withheld -= {variable for variable in withheld if all(variable in own for own in wanted.values())}
    same_build = inventory.build in ("", values.get("collection"))
    same_values = not any(_differ(own, settings.for_host(newest, name)) for name, own in wanted.items())
    if withheld == set(values["withheld"]) and same_values and same_build:
        return newest, []
    collected = {**settings.collect(wanted, values["consul_servers"], withheld), "collection": inventory.build}
    return settings.update(newest, collected, now, by, inventory.few), []


def _differ(one: dict, other: dict) -> bool:
    return set(one) != set(other) or any(not settings.same(value, other[variable]) for variable, value in one.items())


def _missing(record: dict, told: Told) -> tuple[dict[str, dict[str, typing.Any]], dict[str, list[str]]]:
    """What counts for each host and is not what the inventory says, and what the inventory says and does not count."""
    changed, gone = {}, {}
    for name, own in told.variables.items():
        wanted = settings.for_host(record, name)
        others = {
            variable: value
            for variable, value in wanted.items()
            if variable not in told.withheld[name] and (variable not in own or not settings.same(value, own[variable]))
        }
        if others:
            changed[name] = others
        if set(own) - set(wanted):
            gone[name] = sorted(set(own) - set(wanted))
    return changed, gone


def _frozen(record: dict, told: Told) -> dict[str, dict[str, list[str]]]:
    """Roles whose configuration has a part that is kept elsewhere: without it they would be given a wrong one."""
    found: dict[str, dict[str, list[str]]] = {}
    for variable in (record.get("values") or settings.NO_VALUES)["withheld"]:
        for name, own in told.variables.items():
            if variable not in own and variable not in told.withheld[name]:
                found.setdefault(name, {}).setdefault(settings.role_of(variable), []).append(variable)
    return found


def _lines(before: dict, after: dict) -> list[str]:
    if not before or before == after:
        return []
    where = f"{before['by']} set at {before['updated']}"
    return [f"settings: {what} {CHANGES[how]} {where}" for what, how in settings.differences(before["values"], after["values"])]


def _withheld(told: Told) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, kept in sorted(told.withheld.items()):
        for variable, reason in kept.items():
            reasons.setdefault((variable, reason), []).append(name)
    return [
        f"settings: {variable} of {', '.join(names)} {reason}: it stays here and does not travel with the settings of the mesh. "
        f"A run from a machine without it leaves the role {settings.role_of(variable)} alone"
        for (variable, reason), names in sorted(reasons.items())
    ]


def _left_alone(frozen: dict[str, dict[str, list[str]]]) -> list[str]:
    missing: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, roles in sorted(frozen.items()):
        for role, variables in roles.items():
            missing.setdefault((role, tuple(variables)), []).append(name)
    return [
        f"settings: the role {role} is left alone on {', '.join(names)}, as {', '.join(variables)} does not travel: run from the machine where it is set, "
        "or set it in group_vars beside the inventory of this one"
        for (role, variables), names in sorted(missing.items())
    ]
