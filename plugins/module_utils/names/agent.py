# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The local Consul agent: one call of its HTTP API, and one question to its DNS. Neither waits longer than a user of names can."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import time
import typing

from . import wire
from .config import Server

# A whole answer has to be out within a second, also when the agent takes all of its time.
DNS_TIMEOUT_S = 0.5
HTTP_TIMEOUT_S = 0.3
# An agent that let a question time out is not asked again for so long.
SILENCE_S = 3.0
MAX_BYTES = 8 * 1024 * 1024
CHUNK = 64 * 1024
MAX_HEADER = 16 * 1024


class AgentError(Exception):
    """No usable answer; the message says why, in words for a person."""


class Reply(typing.NamedTuple):
    """The body of an answer, and what the agent says about how fresh it is."""

    body: bytes
    index: int
    known_leader: bool
    last_contact_ms: int

    def value(self) -> typing.Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise AgentError("its answer is cut off, or no JSON") from error


class Patience:
    """Remembers for a short while that somebody does not answer, so that only one question in that time waits for nothing."""

    def __init__(self) -> None:
        self._until = 0.0
        self.hangs = False

    async def spend(self, waiting: typing.Coroutine, timeout: float, limited: bool = False) -> typing.Any:
        """Wait for something, which may itself be limited to the time. Raise AgentError for whatever comes between."""
        now = time.monotonic()
        if now < self._until:
            # Never awaited otherwise, of which Python would warn.
            waiting.close()
            raise AgentError("it hangs")
        if self.hangs:
            # This one tries; those that come meanwhile do not wait with it.
            self._until = now + timeout
        try:
            found = await (waiting if limited else asyncio.wait_for(waiting, timeout))
        except asyncio.TimeoutError as error:
            self._until, self.hangs = time.monotonic() + SILENCE_S, True
            raise AgentError("it hangs") from error
        except (OSError, EOFError, ValueError) as error:
            self._until, self.hangs = 0.0, False
            raise AgentError(f"it does not answer ({getattr(error, 'strerror', None) or error})") from error
        except AgentError:
            self._until, self.hangs = 0.0, False
            raise
        self._until, self.hangs = 0.0, False
        return found


class Agent:
    """One agent, by its two addresses."""

    def __init__(self, dns: Server, http: Server) -> None:
        self.dns, self.http = dns, http
        self._dns_patience, self._http_patience = Patience(), Patience()
        self._questions: _Questions | None = None

    def close(self) -> None:
        if self._questions:
            self._questions.transport.close()
            self._questions = None

    async def get(self, path: str, timeout: float = HTTP_TIMEOUT_S) -> Reply:
        """GET a path of the API. Raise AgentError."""
        return await self._http_patience.spend(self._get(path), timeout)

    async def wait(self, path: str, timeout: float) -> Reply:
        """As get, for a call that the agent holds until something changes."""
        return await Patience().spend(self._get(path), timeout)

    async def _get(self, path: str) -> Reply:
        reader, writer = await asyncio.open_connection(*self.http, limit=MAX_HEADER)
        try:
            # With HTTP/1.0 the answer comes in one piece, and ends with the connection.
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {self.http.address}\r\n\r\n".encode("ascii"))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            parts, size = [], 0
            while True:
                part = await reader.read(CHUNK)
                if not part:
                    break
                size += len(part)
                if size > MAX_BYTES:
                    raise AgentError(f"its answer is longer than {MAX_BYTES} bytes")
                parts.append(part)
        except asyncio.LimitOverrunError as error:
            raise AgentError("its answer is no HTTP") from error
        finally:
            writer.close()
        body = b"".join(parts)
        words = head[0].split()
        status = words[1] if len(words) > 1 else "no HTTP"
        if status != "200":
            raise AgentError(f"it says {status}: {body[:200].decode('utf-8', 'replace').strip()}")
        found = {name.strip().lower(): value.strip() for name, dummy, value in (line.partition(":") for line in head[1:])}
        if len(body) < int(found.get("content-length", 0)):
            raise AgentError("its answer is cut off")
        return Reply(
            body,
            int(found.get("x-consul-index", 0)),
            found.get("x-consul-knownleader") == "true",
            int(found.get("x-consul-lastcontact", 0)),
        )

    async def ask(self, packet: bytes, tcp: bool) -> bytes:
        """Ask the agent's DNS a question as it came in. Return its answer to the byte, with the ident of the question. Raise AgentError."""
        if tcp:
            return await self._dns_patience.spend(self._ask_tcp(packet), DNS_TIMEOUT_S)
        return await self._dns_patience.spend(self._ask_udp(packet), DNS_TIMEOUT_S, limited=True)

    async def _ask_udp(self, packet: bytes) -> bytes:
        if self._questions is None:
            loop = asyncio.get_running_loop()
            self._questions = (await loop.create_datagram_endpoint(_Questions, remote_addr=tuple(self.dns)))[1]
        return packet[:2] + (await self._questions.ask(packet, DNS_TIMEOUT_S))[2:]

    async def _ask_tcp(self, packet: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.dns)
        try:
            writer.write(struct.pack("!H", len(packet)) + packet)
            length = struct.unpack("!H", await reader.readexactly(2))[0]
            answer = await reader.readexactly(length)
        finally:
            writer.close()
        if answer[:2] != packet[:2] or len(answer) < wire.HEADER:
            raise AgentError("it answers another question")
        return answer


class _Questions(asyncio.DatagramProtocol):
    """The questions that wait for an answer, by the ident with which they were sent. One socket serves them all."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, asyncio.Future] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    async def ask(self, packet: bytes, timeout: float) -> bytes:
        """Raise asyncio.TimeoutError when no answer comes in time."""
        ident = os.urandom(2)
        while ident in self.waiting:
            ident = os.urandom(2)
        loop = asyncio.get_running_loop()
        self.waiting[ident] = answered = loop.create_future()
        late = loop.call_later(timeout, self._fail, answered, asyncio.TimeoutError())
        try:
            self.transport.sendto(ident + packet[2:])
            return await answered
        finally:
            late.cancel()
            del self.waiting[ident]

    @staticmethod
    def _fail(answered: asyncio.Future, error: Exception) -> None:
        if not answered.done():
            answered.set_exception(error)

    def datagram_received(self, data: bytes, addr: object) -> None:
        answered = self.waiting.get(data[:2])
        if answered and not answered.done() and len(data) >= wire.HEADER and data[2] & 0x80:
            answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        # Nobody listens there, of which none of them will have an answer.
        for answered in self.waiting.values():
            self._fail(answered, exc)


class Shared:
    """What is fetched when it is needed, and then serves all who need it for a while."""

    def __init__(self, fetch: typing.Callable[[], typing.Awaitable], seconds: float) -> None:
        self._fetch, self._seconds = fetch, seconds
        self._task: asyncio.Task | None = None
        self._ends = 0.0

    def start(self) -> asyncio.Future:
        """Fetch it, unless that was done less than `seconds` ago or is under way."""
        if self._task is None or (self._task.done() and time.monotonic() >= self._ends):
            self._task = asyncio.ensure_future(self._fetch())
            self._task.add_done_callback(self._done)
        return self._task

    async def value(self) -> typing.Any:
        """Return what was fetched at most `seconds` ago. Raise AgentError, as the fetch did."""
        # Who gives up waiting must not end it for the others.
        return await asyncio.shield(self.start())

    def _done(self, task: asyncio.Task) -> None:
        self._ends = time.monotonic() + self._seconds
        with contextlib.suppress(asyncio.CancelledError):
            # Looked at here, so that an error that nobody waited for is not told of.
            task.exception()
