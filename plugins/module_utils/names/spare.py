# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stands in for dnsmasq: answers all names, of which those that are not ours come from the host's own name servers, as they are.

The host has it as its second name server, and so asks it while dnsmasq is down, as after a crash or during an upgrade. Some ask it also when
dnsmasq is back: systemd-resolved stays with a server that answers, and other resolvers take turns or ask both. For them dnsmasq has the word, as long
as it answers at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import struct
import time

from . import wire
from .agent import AgentError
from .answers import Answerer
from .config import Config, Server, parse_server

# How often at most the files with the host's own name servers are looked at.
LOOK_EVERY_S = 1.0
# How long dnsmasq may take, and how long one of those servers, before the next is asked. Whoever asks gives up after a few seconds.
DNSMASQ_S = 0.2
ANSWER_S = 1.5
MOST_SERVERS = 3
DNS_PORT = 53


def zone_of(text: str) -> wire.Name:
    """A domain, or the zone of the reverse names of a network, as the resolver program has it, which is installed apart from this one."""
    if "/" in text:
        network = ipaddress.ip_network(text)
        labels = network.network_address.reverse_pointer.split(".")
        text = ".".join(labels[len(labels) - 2 - network.prefixlen // (4 if network.version == 6 else 8) :])
    return wire.lowered(wire.parse_name(text))


def servers_in(text: str) -> list[Server]:
    """The servers of a file, either as resolv.conf has them or as dnsmasq does. One that only dnsmasq can ask is left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            written = words[1]
        elif line.startswith("server="):
            written = line[len("server=") :].strip()
        else:
            continue
        try:
            found.append(parse_server(written if "#" in written else f"{written}#{DNS_PORT}"))
        except ValueError:
            continue
    return found


class Spare:
    """Answers a packet with what an Answerer says, if it is about one of its zones; and with what the host's own name servers say, if not."""

    def __init__(self, config: Config, answerer: Answerer) -> None:
        self.config, self.answerer = config, answerer
        self.problem = ""
        self.zones = [zone_of(zone) for zone in config.zones]
        self._servers: list[Server] = []
        self._seen: object = ()
        self._looked = 0.0

    async def answer(self, packet: bytes, tcp: bool) -> bytes | None:
        """As Answerer.answer."""
        try:
            query = wire.decode(packet)
        except wire.WireError:
            query = None
        if query is None or query.flags & wire.QR or len(query.questions) != 1 or self._is_ours(query.questions[0]):
            return await self.answerer.answer(packet, tcp)
        dnsmasq = [(self.config.dnsmasq, DNSMASQ_S)] if self.config.dnsmasq else []
        for server, seconds in dnsmasq + [(server, ANSWER_S) for server in self.servers()[:MOST_SERVERS]]:
            try:
                return await asyncio.wait_for(_ask_tcp(server, packet) if tcp else _ask_udp(server, packet), seconds)
            except (OSError, EOFError, AgentError, asyncio.TimeoutError):
                continue
        return wire.encode(query._replace(flags=wire.QR | wire.RA | (query.flags & wire.RD) | wire.SERVFAIL, additionals=()))

    def _is_ours(self, question: wire.Question) -> bool:
        name = wire.lowered(question.name)
        return question.cls != wire.IN or any(name[-len(zone) :] == zone for zone in self.zones)

    def servers(self) -> list[Server]:
        """The host's own name servers. What was known outlives a file that is gone for a moment."""
        now = time.monotonic()
        if self.config.upstreams:
            return list(self.config.upstreams)
        if now - self._looked < LOOK_EVERY_S and self._servers:
            return self._servers
        self._looked = now
        try:
            seen = [(found.st_mtime_ns, found.st_size, found.st_ino) for found in map(os.stat, self.config.upstream_files)]
            if seen == self._seen:
                return self._servers
            texts = []
            for path in self.config.upstream_files:
                with open(path, encoding="utf-8", errors="replace") as stream:
                    texts.append(stream.read())
        except OSError:
            return self._servers
        # Asking ourselves would go round and round.
        found = [server for text in texts for server in servers_in(text) if server.address not in self.config.own]
        self._servers, self._seen = found or self._servers, seen
        return self._servers


def _is_answer(answer: bytes, packet: bytes) -> bool:
    return len(answer) >= wire.HEADER and answer[:2] == packet[:2] and bool(answer[2] & 0x80)


class _OneAnswer(asyncio.DatagramProtocol):
    """Waits for the answer to one question, on a port of its own that nobody can guess."""

    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if _is_answer(data, self.packet) and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _ask_udp(server: Server, packet: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    # The ident of the question came from a program of the host; the way to the server gets one of its own.
    sent = os.urandom(2) + packet[2:]
    transport, waiting = await loop.create_datagram_endpoint(lambda: _OneAnswer(sent), remote_addr=tuple(server))
    try:
        transport.sendto(sent)
        return packet[:2] + (await waiting.answer)[2:]
    finally:
        transport.close()


async def _ask_tcp(server: Server, packet: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack("!H", len(packet)) + packet)
        answer = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
    finally:
        writer.close()
    if not _is_answer(answer, packet):
        raise AgentError("it answers another question")
    return answer
