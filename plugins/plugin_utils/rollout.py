# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""New settings, tried on one node before the others get them: in which order, and whether a node is well with them. Pure.

A rollout is a run that brings settings, or a build of this collection, that no node keeps yet. Every other run repairs: what it brings is proven, and one
broken node must not keep another from being repaired, so that all are worked on at once.
"""

from __future__ import annotations

import typing

# As many as there are plays for them in site.yml.
BATCHES = 3
# A tenth of the nodes comes after the first.
SHARE = 10
# So long another run leaves a node alone on which settings are tried. Whoever tries them may have died.
MARK_S = 900.0
# So long settings that were stopped are not tried again by a run that nobody has asked for them.
STOPPED_S = 3600.0


class Candidate(typing.NamedTuple):
    """A node that a rollout changes."""

    name: str
    tried: bool  # these very settings were stopped there
    settled: bool  # it has them all the same
    ill: bool  # something is wrong with it, whatever the settings
    agrees: int  # 0 unless it has to agree with others: 1 for a link, 2 for becoming a Consul server, 3 for ceasing to be one
    local: bool  # the run is started from it
    leader: bool  # of Consul
    server: bool


def batches(candidates: list[Candidate], others: typing.Iterable[str] = ()) -> list[list[str]]:
    """Who comes after whom: one node, then a tenth of them, then the rest. `others` have nothing to try, and come with the last but never with the first.

    A node that is not well although it has the settings comes first: they may be why, and no second one should follow it.
    """
    names = [candidate.name for candidate in sorted(candidates, key=_order)]
    second = 1 + -(-len(names) // SHARE)
    found = [names[:1], names[1:second], names[second:]]
    found = [batch for batch in found if batch]
    late = sorted(others)
    return [*found[:-1], found[-1] + late] if len(found) > 1 else [*found, *([late] if late else [])]


def _order(candidate: Candidate) -> tuple:
    suspect = candidate.tried and candidate.settled and candidate.ill
    return (
        not suspect,
        # What went wrong there may be the node's own fault, and another one will tell.
        candidate.tried,
        candidate.ill,
        candidate.agrees,
        candidate.local,
        candidate.leader,
        candidate.server,
        candidate.name,
    )


def line(found: list[list[str]]) -> str:
    """The batches in words."""
    if not found:
        return ""
    told = [_named(batch) for batch in found[:-1]]
    last = found[-1]
    if not told:
        return f"canary: {_named(last)} alone"
    return f"canary: {', then '.join([told[0] + ' first', *told[1:], _named(last) if len(last) < 3 else f'the other {len(last)}'])}"


def _named(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def witness(batch: int, found: list[list[str]], idle: list[str]) -> str:
    """Who stays in the play of a batch when all of the batch fail, to say so and to go on from there; empty when there is nobody."""
    others = [*idle[:1], *(names[0] for number, names in enumerate(found) if number != batch)]
    return others[0] if others else ""


def ailments(look: dict) -> list[str]:
    """What is wrong with a node whatever its settings are, in the words that the plan has for it."""
    managed = look["manifests"]
    found = [f"node: {text}" for text in (look["system"].get("problem"), look["mesh"].get("problem")) if text]
    for role, observed in managed.items():
        for name, service in observed["services"].items():
            found += [f"{role}: {name} does not run"] if not service.get("running") else []
    if "cjdns" in managed:
        found += [f"cjdns: {reason}" for reason in look["cjdns"]["pending"]]
        links = look["cjdns"]["config"]
        if (links.get("dials") or links.get("accepts")) and not look["cjdns"]["established"]:
            found.append("cjdns: has no live link")
    if "consul" in managed:
        seen = look["consul"]
        if seen["problem"] and not seen["members"]:
            found.append(f"consul: the agent does not answer: {seen['problem']}")
        elif not seen["leader"]:
            found.append("consul: sees no leader")
    if "dnsmasq" in managed:
        if look["resolver"]["problem"]:
            found.append(f"dnsmasq: {look['resolver']['problem']}")
        elif not look["resolver"]["answers"]:
            found.append("dnsmasq: does not answer")
    return found


def problems(before: dict, after: dict, due: dict[str, list[str]], left: dict[str, list[str]], suspect: bool) -> list[str]:
    """What speaks against the settings on a node: `before` and `after` are the looks at it, `due` was to be done there and `left` is still, by role.

    What was so before is the node's own trouble and does not count, unless it is suspect: then it may have come with these settings in an earlier run.
    """
    known = set() if suspect else {_head(text) for text in [*ailments(before), *_told(due)]}
    found = [text for text in dict.fromkeys([*_told(left), *ailments(after)]) if _head(text) not in known]
    had, has = len(before["cjdns"]["established"]), len(after["cjdns"]["established"])
    if has < had and "cjdns: has no live link" not in found:
        found.append(f"cjdns: has {has} live links, and had {had}")
    return found


def _told(drift: dict[str, list[str]]) -> list[str]:
    return [f"{role}: {reason}" for role, reasons in drift.items() for reason in reasons]


def _head(text: str) -> str:
    """A reason without its details, which are other ones each time."""
    return ": ".join(text.split(": ")[:2])


def is_suspect(look: dict, drift: dict[str, list[str]], values: str) -> bool:
    """Whether the settings with this digest were stopped on a node, which has them all the same and is not well."""
    return was_stopped(look, values) and is_settled(look, drift) and bool(ailments(look))


def was_stopped(look: dict, values: str) -> bool:
    marked = look["mesh"].get("rollout") or {}
    return bool(marked.get("stopped")) and marked["values"] == values


def is_settled(look: dict, drift: dict[str, list[str]]) -> bool:
    """Whether a node has what it should have but for what is wrong with it."""
    return set(_told(drift)) <= set(ailments(look))


def busy(looks: dict[str, dict], by: str, values: str) -> dict[str, dict]:
    """The marks of nodes on which another machine is trying other settings right now."""
    found = {name: look["mesh"].get("rollout") or {} for name, look in sorted(looks.items())}
    return {
        name: marked
        for name, marked in found.items()
        if marked and not marked["stopped"] and marked["by"] != by and marked["values"] != values and 0 <= marked["age"] < MARK_S
    }
