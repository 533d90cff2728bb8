# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which nodes do not answer a ping from here, of those that names led to lately.

Gossip takes its time to call a node dead, and never does so of one that others reach and this node does not. Whoever asks for a service
does not want to wait for either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
import typing

ECHO_REQUEST, ECHO_REPLY = 128, 129
# From linux/icmpv6.h. The socket module does not have it.
ICMP6_FILTER = 1
EVERY_S = 1.0
# A node is silent when the last ping that it answered was sent so long ago: the two after that are lost then. With the two seconds that dnsmasq keeps
# an answer this is less than h2o waits for a dead address, so that its next try does not meet it again.
SILENT_S = 2.8
# Who was not asked for in this time is not pinged any more.
WANTED_S = 30.0
# More nodes at once are not watched.
MOST = 256
HEADER = struct.Struct("!BBHHH")
SENT = struct.Struct("!8sd")


class Node:
    """When an address was asked for last, and when the last ping was sent that it answered; 0 for never."""

    def __init__(self) -> None:
        self.wanted = self.answered = 0.0


class Pings:
    """Pings the nodes that are wanted, once a second, as long as they are. Addresses are packed, and IPv6."""

    def __init__(self) -> None:
        self.problem = ""
        self.nodes: dict[bytes, Node] = {}
        self._sock: socket.socket | None = None
        self._ticked = 0.0
        # A raw socket sees the answers to everybody's pings.
        self._cookie = os.urandom(8)
        self._wanted = asyncio.Event()

    def want(self, addresses: typing.Iterable[bytes]) -> None:
        """Watch these from now on."""
        now = time.monotonic()
        for address in addresses:
            if address in self.nodes or len(self.nodes) < MOST:
                self.nodes.setdefault(address, Node()).wanted = now
                self._wanted.set()

    def silent(self) -> set[bytes]:
        """Those that have answered, and do not any more. One that never has may be behind a firewall, which says nothing."""
        now = time.monotonic()
        return {address for address, node in self.nodes.items() if node.answered and now - node.answered >= SILENT_S}

    async def run(self) -> None:
        """Ping for ever. Where that is not permitted, note the problem: then nobody is ever silent."""
        try:
            self._sock = _open()
        except OSError as error:
            self.problem = f"nodes cannot be pinged ({error.strerror}): one that dies is answered until gossip knows of it"
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._read)
        try:
            while True:
                await self._wanted.wait()
                self.tick()
                await asyncio.sleep(EVERY_S)
        finally:
            loop.remove_reader(self._sock)
            self._sock.close()

    def tick(self) -> None:
        """Ping those that are wanted, and forget the others."""
        now = time.monotonic()
        self.nodes = {address: node for address, node in self.nodes.items() if now - node.wanted < WANTED_S}
        if not self.nodes:
            self._wanted.clear()
        late = now - self._ticked > SILENT_S - EVERY_S
        self._ticked = now
        for address, node in self.nodes.items():
            if late and node.answered:
                # This machine slept, or is overloaded. Who did not answer meanwhile may never have been asked.
                node.answered = now
            # No way there is no answer either.
            with contextlib.suppress(OSError):
                self.send(address, HEADER.pack(ECHO_REQUEST, 0, 0, os.getpid() & 0xFFFF, 0) + SENT.pack(self._cookie, now))

    def send(self, address: bytes, packet: bytes) -> None:
        """Raise OSError where that is not possible."""
        self._sock.sendto(packet, (socket.inet_ntop(socket.AF_INET6, address), 0))

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, client = self._sock.recvfrom(128)
                self.received(packet, socket.inet_pton(socket.AF_INET6, client[0].partition("%")[0]))

    def received(self, packet: bytes, address: bytes) -> None:
        """Take an answer to a ping, if it is one of ours."""
        if address not in self.nodes or len(packet) != HEADER.size + SENT.size or packet[0] != ECHO_REPLY:
            return
        cookie, sent = SENT.unpack(packet[HEADER.size :])
        if cookie == self._cookie:
            self.nodes[address].answered = max(self.nodes[address].answered, sent)


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    try:
        sock.setblocking(False)
        # A bit that is set keeps packets of its type away.
        kept_away = [0xFFFFFFFF] * 8
        kept_away[ECHO_REPLY // 32] ^= 1 << ECHO_REPLY % 32
        sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *kept_away))
    except OSError:
        sock.close()
        raise
    return sock
