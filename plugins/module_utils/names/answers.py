# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a question is answered with, and out of which source."""

from __future__ import annotations

import collections
import time
import typing

from . import records, wire
from .agent import Agent, AgentError, Shared
from .config import Config
from .gossip import Gossip, Members, packed
from .overlay import Overlay
from .pings import Pings
from .records import NobodyKnows
from .snapshot import Snapshot

LEADER_EVERY_S = 2.0
CONSUL, FILTERED, SNAPSHOT, REGISTRY, NOTHING = "consul", "filtered", "snapshot", "registry", "nothing"
# What the root of our own records says of itself: who is asked, and how long a "no" may be kept.
SOA_NUMBERS = (1, 3600, 600, 86400, records.NEGATIVE_TTL)
MAX_UDP = 4096
# A service that every mesh has.
PROBE = ("consul", "service")


class Outcome(typing.NamedTuple):
    """A packet, the source that it is out of, and why that was not Consul."""

    packet: bytes
    source: str
    why: str = ""


class Answerer:
    """Answers questions. `snapshot` is put there by whoever refreshes it."""

    def __init__(self, config: Config, agent: Agent) -> None:
        self.config, self.agent = config, agent
        self.gossip = Gossip(agent)
        self.overlay = Overlay(config.registry)
        self.pings = Pings()
        self.snapshot: Snapshot | None = None
        self.counts: collections.Counter = collections.Counter()
        self.consul_domain, self.mesh_domain = (wire.lowered(wire.parse_name(name)) for name in (config.consul_domain, config.mesh_domain))
        self._leader = Shared(self._ask_leader, LEADER_EVERY_S)
        # Told of each outcome of a question to Consul.
        self.watcher: typing.Callable[[Outcome], None] = lambda outcome: None

    async def answer(self, packet: bytes, tcp: bool) -> bytes | None:
        """Answer a packet, whatever is in it; None for one that is no question at all."""
        if len(packet) < wire.HEADER or packet[2] & 0x80:
            return None
        try:
            query = wire.decode(packet)
        except wire.WireError:
            return _head(packet, wire.FORMERR)
        if query.flags & wire.OPCODE:
            return _head(packet, wire.NOTIMP)
        if len(query.questions) != 1 or query.answers:
            return _head(packet, wire.FORMERR)
        outcome = await self._outcome(query, packet, tcp)
        self.counts[outcome.source] += 1
        return outcome.packet

    async def _outcome(self, query: wire.Message, packet: bytes, tcp: bool) -> Outcome:
        question = query.questions[0]
        name = wire.lowered(question.name)
        reply = Reply(query, tcp)
        if question.cls != wire.IN:
            return Outcome(reply.error(wire.REFUSED), NOTHING)
        self.overlay.refresh()
        if _under(name, self.mesh_domain):
            return Outcome(self._node(reply, name), REGISTRY)
        address = wire.reversed_address(name)
        if address in self.overlay.names and question.type in (wire.PTR, wire.ANY):
            target = (self.overlay.names[address].encode(), *self.mesh_domain)
            return Outcome(reply.records([wire.Record(question.name, wire.PTR, wire.IN, records.TTL, wire.encode_name(target))]), REGISTRY)
        if not _under(name, self.consul_domain) and name[-1:] != (b"arpa",):
            return Outcome(reply.error(wire.REFUSED), NOTHING)
        outcome = await self._consul(reply, packet, tcp, address)
        self.watcher(outcome)
        return outcome

    def _node(self, reply: Reply, name: wire.Name) -> bytes:
        """The overlay address of a node of the mesh. There is no other kind yet, which is an empty answer and no missing name."""
        rest = name[: -len(self.mesh_domain)]
        if not rest:
            soa = _soa(self.mesh_domain)
            return reply.records([soa] if reply.question.type in (wire.SOA, wire.ANY) else [], self.mesh_domain)
        node = rest[0].decode("ascii", "replace") if len(rest) == 1 else ""
        if node not in self.overlay.addresses:
            return reply.error(wire.NXDOMAIN, self.mesh_domain)
        found = []
        if reply.question.type in (wire.AAAA, wire.ANY):
            raw = packed(self.overlay.addresses[node])
            found.append(wire.Record(reply.question.name, wire.AAAA, wire.IN, records.TTL, raw))
        return reply.records(found, self.mesh_domain)

    async def _consul(self, reply: Reply, packet: bytes, tcp: bool, address: str) -> Outcome:
        """What Consul says, without the dead and the silent; what the snapshot says where Consul has nothing to say."""
        self.gossip.start()
        try:
            asked, silent = await self.agent.ask(packet, tcp), ""
        except AgentError as error:
            asked, silent = b"", f"the DNS of the agent: {error}"
        try:
            members = await self.gossip.members()
        except AgentError:
            members = None
        if silent:
            return self._stale(reply, address, members, silent)
        try:
            message = wire.decode(asked)
            if message.rcode in (wire.SERVFAIL, wire.REFUSED):
                return self._stale(reply, address, members, "the agent knows no server that answers")
            if message.rcode == wire.NXDOMAIN or (message.rcode == wire.NOERROR and not message.answers):
                if self._is_known(reply, address) and not await self.has_leader():
                    return self._stale(reply, address, members, "the agent has no such name, and knows no leader")
                return Outcome(asked, CONSUL)
            if address or members is None or message.rcode != wire.NOERROR:
                return Outcome(asked, CONSUL)
            if reply.wanted:
                self.pings.want(self.overlay.held(wire.address_of(record) for record in (*message.answers, *message.additionals)))
            left = self._without_dead(message, members)
        except wire.WireError as error:
            return self._stale(reply, address, members, f"the agent's answer is none ({error})")
        if left is None:
            return Outcome(asked, CONSUL)
        if left.answers:
            return Outcome(reply.fitting(left), FILTERED)
        # Consul may have given some of many, and these may all be dead.
        if self._is_known(reply, address):
            return self._stale(reply, address, members, "all that the agent has are dead")
        return Outcome(reply.records([], self.consul_domain), FILTERED)

    def _without_dead(self, message: wire.Message, members: Members) -> wire.Message | None:
        """As records.without_dead. The silent go as well, as long as somebody is left."""
        dead_addresses = set(members.dead_addresses)
        if self.snapshot:
            dead_addresses |= self.snapshot.dead_addresses(members)
        silent = self.pings.silent()
        if silent:
            unheard = members._replace(dead=members.dead | self.overlay.named(silent))
            left = records.without_dead(message, self.consul_domain, unheard, dead_addresses | silent)
            if left and left.answers:
                return left
        return records.without_dead(message, self.consul_domain, members, dead_addresses)

    def usable(self) -> Snapshot | None:
        """The snapshot, unless there is none or it is too old."""
        return self.snapshot if self.snapshot and self.snapshot.age() <= self.config.max_age else None

    def _is_known(self, reply: Reply, address: str) -> bool:
        snapshot = self.usable()
        try:
            return bool(snapshot) and bool(snapshot.name_of(packed(address)) if address else self._find(snapshot, reply))
        except NobodyKnows:
            return False

    def _find(self, snapshot: Snapshot, reply: Reply) -> records.Found | None:
        labels = wire.lowered(reply.question.name)[: -len(self.consul_domain)]
        return records.find(snapshot, [label.decode("utf-8", "replace") for label in labels])

    def _stale(self, reply: Reply, address: str, members: Members | None, why: str) -> Outcome:
        """Answer out of the snapshot."""
        snapshot = self.usable()
        if snapshot is None:
            return Outcome(reply.error(wire.SERVFAIL), NOTHING, why)
        if not _under(wire.lowered(reply.question.name), self.consul_domain):
            found = snapshot.name_of(packed(address)) if address else None
            if found is None:
                return Outcome(reply.error(wire.NXDOMAIN, reply.question.name[-2:]), SNAPSHOT, why)
            target = (*found[0].encode().split(b"."), found[1].encode(), snapshot.datacenter.encode(), *self.consul_domain)
            record = wire.Record(reply.question.name, wire.PTR, wire.IN, records.TTL, wire.encode_name(target))
            return Outcome(reply.records([record] if reply.question.type in (wire.PTR, wire.ANY) else []), SNAPSHOT, why)
        try:
            if len(reply.question.name) == len(self.consul_domain):
                # Whether Consul's DNS itself is there is what is asked with this name.
                raise NobodyKnows
            found = self._find(snapshot, reply)
        except NobodyKnows:
            return Outcome(reply.error(wire.SERVFAIL), NOTHING, why)
        if found is None:
            return Outcome(reply.error(wire.NXDOMAIN, self.consul_domain), SNAPSHOT, why)
        alive = records.living(snapshot, found, members, self.gossip.remembered())
        if reply.wanted:
            self.pings.want(self.overlay.held(packed(one.address) for one in alive))
        silent = self.pings.silent()
        alive = [one for one in alive if packed(one.address) not in silent] or alive
        answers, additionals = records.records(reply.question, self.consul_domain, snapshot, found, alive)
        return Outcome(reply.records(answers, self.consul_domain, additionals), SNAPSHOT, why)

    async def has_leader(self) -> bool:
        """Whether the agent says that there is a leader; when it does not say, there is none."""
        try:
            return await self._leader.value()
        except AgentError:
            return False

    async def _ask_leader(self) -> bool:
        return bool((await self.agent.get("/v1/status/leader")).value())

    async def probe(self) -> Outcome:
        """Ask Consul what any mesh has, the way others ask."""
        name = (*(label.encode() for label in PROBE), *self.consul_domain)
        query = wire.Message(int(time.monotonic() * 1000) & 0xFFFF, wire.RD, (wire.Question(name, wire.ANY),))
        return await self._consul(Reply(query, False, wanted=False), wire.encode(query), False, "")


class Reply:
    """Writes answers to one query. Somebody wants to go where the answer leads, unless the query is our own."""

    def __init__(self, query: wire.Message, tcp: bool, wanted: bool = True) -> None:
        self.query, self.question, self.wanted = query, query.questions[0], wanted
        self.limit = 0xFFFF if tcp else min(MAX_UDP, wire.udp_size(query))

    def fitting(self, message: wire.Message) -> bytes:
        return wire.fitting(message, self.limit)

    def records(self, answers: list, domain: wire.Name = (), additionals: list | None = None) -> bytes:
        """An answer with these records. Without any, it says that the name has none of that type."""
        return self._write(wire.NOERROR, answers, domain, additionals or [])

    def error(self, rcode: int, domain: wire.Name = ()) -> bytes:
        return self._write(rcode, [], domain if rcode == wire.NXDOMAIN else (), [])

    def _write(self, rcode: int, answers: list, domain: wire.Name, additionals: list) -> bytes:
        flags = wire.QR | wire.AA | wire.RA | (self.query.flags & wire.RD) | rcode
        authorities = () if answers or not domain else (_soa(domain),)
        if any(record.type == wire.OPT for record in self.query.additionals):
            additionals = [*additionals, wire.Record((), wire.OPT, MAX_UDP, 0, b"")]
        return self.fitting(wire.Message(self.query.ident, flags, self.query.questions, tuple(answers), authorities, tuple(additionals)))


def _soa(domain: wire.Name) -> wire.Record:
    data = wire.encode_name((b"ns", *domain)) + wire.encode_name((b"hostmaster", *domain))
    return wire.Record(
        domain, wire.SOA, wire.IN, records.NEGATIVE_TTL, data + b"".join(number.to_bytes(4, "big") for number in SOA_NUMBERS)
    )


def _under(name: wire.Name, domain: wire.Name) -> bool:
    return name[-len(domain) :] == domain


def _head(packet: bytes, rcode: int) -> bytes:
    """Answer a question that was not understood: with its ident, and nothing of what it asked."""
    flags = wire.QR | (int.from_bytes(packet[2:4], "big") & (wire.OPCODE | wire.RD)) | rcode
    return wire.encode(wire.Message(int.from_bytes(packet[:2], "big"), flags))
