# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Listens for questions on the loopback, and keeps systemd's watchdog quiet while it answers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import json
import os
import socket
import struct
import sys
import time
import traceback

from . import status, wire
from .agent import Agent
from .answers import Answerer
from .config import Config
from .config import Server as Address
from .spare import Spare
from .watch import Watch, tell

# More at once are dropped, as a network would: who asks will ask again.
MOST_QUERIES = 256
MOST_CLIENTS = 32
# How long a TCP client may take over a question, and how many it may ask.
CLIENT_S = 5.0
CLIENT_QUERIES = 200


class Server:
    """Answers by UDP and TCP with what an Answerer says."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.answerer = Answerer(config, Agent(config.consul_dns, config.consul_http))
        self.watch = Watch(self.answerer)
        self.spare = Spare(config, self.answerer)
        self.started = time.time()
        self._queries: set = set()
        self._clients = 0

    async def run(self) -> None:
        """Serve until cancelled. Raise OSError when the port cannot be had."""
        self.watch.restore()
        address, port = self.config.listen
        try:
            listening = await self._listen(self.config.listen, self.answerer)
        except OSError as error:
            raise OSError(f"cannot listen on {address} port {port} ({error.strerror}): set dnsmasq_names_port to a free port") from error
        if self.config.spare:
            try:
                listening += await self._listen(self.config.spare, self.spare)
            except OSError as error:
                # dnsmasq is there all the same.
                self.spare.problem = (
                    f"cannot stand in for dnsmasq on {self.config.spare.address} port {self.config.spare.port} ({error.strerror})"
                )
                tell(self.spare.problem)
        tell_systemd("READY=1")
        try:
            await asyncio.gather(self.watch.keep(), self.watch.check(), self.answerer.pings.run(), watchdog())
        finally:
            for one in listening:
                one.close()
            self.answerer.agent.close()

    async def _listen(self, at: Address, answerer: Answerer | Spare) -> list:
        """Answer at an address with what somebody says, by UDP and TCP. Raise OSError."""
        loop = asyncio.get_running_loop()
        transport, dummy = await loop.create_datagram_endpoint(lambda: _Datagrams(self, answerer), local_addr=tuple(at))
        try:
            return [transport, await asyncio.start_server(functools.partial(self._client, answerer), *at, backlog=MOST_CLIENTS)]
        except OSError:
            transport.close()
            raise

    def received(self, packet: bytes, client: tuple, transport: asyncio.DatagramTransport, answerer: Answerer | Spare) -> None:
        if len(self._queries) >= MOST_QUERIES or not is_local(client):
            return
        task = asyncio.ensure_future(self._datagram(packet, client, transport, answerer))
        self._queries.add(task)
        task.add_done_callback(self._queries.discard)

    async def _datagram(self, packet: bytes, client: tuple, transport: asyncio.DatagramTransport, answerer: Answerer | Spare) -> None:
        answer = await self.answer(packet, False, answerer)
        if answer:
            transport.sendto(answer, client)

    async def _client(self, answerer: Answerer | Spare, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients > MOST_CLIENTS or not is_local(writer.get_extra_info("peername") or ("",)):
                return
            for _dummy in range(CLIENT_QUERIES):
                packet = await asyncio.wait_for(_read(reader), CLIENT_S)
                answer = await self.answer(packet, True, answerer)
                if not answer:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                await asyncio.wait_for(writer.drain(), CLIENT_S)
        except (OSError, EOFError, asyncio.TimeoutError):
            # It has gone, or takes too long.
            pass
        finally:
            self._clients -= 1
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def answer(self, packet: bytes, tcp: bool, answerer: Answerer | Spare) -> bytes | None:
        try:
            return self._status(packet) or await answerer.answer(packet, tcp)
        except Exception:  # pylint: disable=broad-except
            # Whatever a packet does to us, the next one is answered.
            traceback.print_exc(file=sys.stderr)
            return packet[:2] + struct.pack("!5H", wire.QR | wire.SERVFAIL, 0, 0, 0, 0)

    def _status(self, packet: bytes) -> bytes | None:
        """Answer the question of the status command; None for any other."""
        if status.QUESTION not in packet:
            return None
        with contextlib.suppress(wire.WireError):
            query = wire.decode(packet)
            if query.questions == (wire.Question(status.NAME, wire.TXT, wire.CHAOS),):
                text = json.dumps(status.of(self)).encode("ascii")
                data = b"".join(bytes((len(text[at : at + 255]),)) + text[at : at + 255] for at in range(0, len(text), 255))
                record = wire.Record(status.NAME, wire.TXT, wire.CHAOS, 0, data)
                return wire.fitting(wire.Message(query.ident, wire.QR | wire.AA, query.questions, (record,)), 0xFFFF)
        return None


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server, answerer: Answerer | Spare) -> None:
        self.server, self.answerer = server, answerer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple) -> None:
        self.server.received(data, addr, self.transport, self.answerer)


async def _read(reader: asyncio.StreamReader) -> bytes:
    length = struct.unpack("!H", await reader.readexactly(2))[0]
    return await reader.readexactly(length)


def is_local(client: tuple) -> bool:
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def tell_systemd(word: str) -> None:
    """Say something to systemd, if it runs us."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.send(word.encode("ascii"))


async def watchdog() -> None:
    """Tell systemd that we still answer, as often as it wants to hear it."""
    every = int(os.environ.get("WATCHDOG_USEC", 0)) / 1_000_000
    while every:
        tell_systemd("WATCHDOG=1")
        await asyncio.sleep(every / 3)
