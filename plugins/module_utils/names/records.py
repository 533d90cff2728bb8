# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How names in Consul's domain are answered out of a snapshot, as Consul itself would write it. Pure: values in, records out."""

from __future__ import annotations

import ipaddress
import random
import typing

from . import wire
from .gossip import Members, packed
from .snapshot import Instance, Snapshot

# Of what may be old, nobody shall keep a copy for long.
TTL = 2
NEGATIVE_TTL = 1
KNOWN_KINDS = ("service", "node", "addr")
# What Consul would answer, and a snapshot has nothing of.
OTHER_KINDS = ("query", "connect", "virtual", "ingress")


class NobodyKnows(Exception):
    """A question that neither Consul nor the snapshot can answer."""


class Found(typing.NamedTuple):
    """What there is of a name, and the labels of Consul's domain as the question wrote them."""

    instances: list
    service: bool


def find(snapshot: Snapshot, labels: list[str]) -> Found | None:
    """Look a name up by its labels before the domain, in lower case; None when there is no such name. Raise NobodyKnows."""
    at = next((at for at in reversed(range(len(labels))) if labels[at] in KNOWN_KINDS + OTHER_KINDS), None)
    if at is None:
        return None
    kind, before, behind = labels[at], labels[:at], labels[at + 1 :]
    if kind in OTHER_KINDS or len(behind) > 1 or (behind and behind[0] != snapshot.datacenter):
        raise NobodyKnows
    if not before:
        return None
    if kind == "addr":
        return _address(before)
    if kind == "node":
        name = ".".join(before)
        address = snapshot.nodes.get(name, ("", False))[0]
        return Found([Instance(name, address, 0, [], 1)], False) if address else None
    if len(before) == 2 and before[0].startswith("_") and before[1].startswith("_"):
        # As SRV names are written: _web._tcp, or a tag in the place of the protocol.
        service, tag = before[0][1:], before[1][1:]
        tag = "" if tag == "tcp" else tag
    else:
        service, tag = before[-1], ".".join(before[:-1])
    instances = snapshot.instances(service, tag)
    return Found(instances, True) if instances else None


def _address(before: list[str]) -> Found | None:
    """A name such as 0a010203.addr.consul says its address itself."""
    try:
        raw = bytes.fromhex(before[0]) if len(before) == 1 else b""
        return Found([Instance("", str(ipaddress.ip_address(raw)), 0, [], 1)], False)
    except ValueError:
        return None


def living(snapshot: Snapshot, found: Found, members: Members | None, remembered: Members | None) -> list[Instance]:
    """Which of them to answer with. `members` are who gossip says is alive, None while the agent is down: then nobody knows better
    than the snapshot, and what gossip last said only comes first."""
    known = members or remembered
    if known is None:
        return found.instances
    alive = [one for one in found.instances if not one.node or snapshot.lives(one.node, known)]
    return alive if alive or members else found.instances


def records(question: wire.Question, domain: wire.Name, snapshot: Snapshot, found: Found, alive: list[Instance]) -> tuple[list, list]:
    """The answers to a question, and the additional records."""
    alive = random.sample(alive, len(alive))
    if question.type == wire.SRV and found.service:
        return _srv(question, domain, snapshot, alive)
    addresses = list(dict.fromkeys(packed(one.address) for one in alive))
    return [_address_record(question.name, raw) for raw in addresses if question.type in (kind_of(raw), wire.ANY)], []


def kind_of(raw: bytes) -> int:
    return wire.A if len(raw) == 4 else wire.AAAA


def _address_record(name: wire.Name, raw: bytes) -> wire.Record:
    return wire.Record(name, kind_of(raw), wire.IN, TTL, raw)


def _srv(question: wire.Question, domain: wire.Name, snapshot: Snapshot, alive: list[Instance]) -> tuple[list, list]:
    answers, additionals = {}, {}
    for one in alive:
        raw = packed(one.address)
        datacenter = snapshot.datacenter.encode()
        if one.address == snapshot.nodes.get(one.node, ("", False))[0] and wire.is_writable(one.node):
            target = (*one.node.encode().split(b"."), b"node", datacenter, *domain)
        else:
            target = (raw.hex().encode(), b"addr", datacenter, *domain)
        data = b"".join(number.to_bytes(2, "big") for number in (1, one.weight, one.port)) + wire.encode_name(target)
        answers[data] = wire.Record(question.name, wire.SRV, wire.IN, TTL, data)
        additionals[target] = _address_record(target, raw)
    return list(answers.values()), list(additionals.values())


def without_dead(message: wire.Message, domain: wire.Name, members: Members, dead_addresses: set[bytes]) -> wire.Message | None:
    """Take out of an answer of Consul's what leads to nodes that are dead; None when nothing in it does. Raise WireError."""
    dropped = set()
    answers = []
    for record in message.answers:
        if record.type == wire.SRV:
            target = wire.lowered(wire.target_of(record))
            if _leads_to_dead(target, domain, members, dead_addresses):
                dropped.add(target)
                continue
        if wire.address_of(record) in dead_addresses:
            continue
        answers.append(record)
    if len(answers) == len(message.answers):
        return None
    kept = [
        record
        for record in message.additionals
        if wire.address_of(record) not in dead_addresses and (wire.lowered(record.name) not in dropped or record.type == wire.OPT)
    ]
    return message._replace(answers=tuple(answers), additionals=tuple(kept))


def _leads_to_dead(target: wire.Name, domain: wire.Name, members: Members, dead_addresses: set[bytes]) -> bool:
    if target[-len(domain) :] != domain:
        return False
    labels = [label.decode("utf-8", "replace") for label in target[: -len(domain)]]
    # Behind the kind comes the name of the datacenter, which may be one of these words.
    for at in (len(labels) - 2, len(labels) - 1):
        if at < 1:
            continue
        if labels[at] == "node":
            return ".".join(labels[:at]) in members.dead
        if labels[at] == "addr":
            found = _address(labels[:at])
            return bool(found) and packed(found.instances[0].address) in dead_addresses
    return False
