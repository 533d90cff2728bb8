# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Calls to the admin interface of cjdns: one bencoded dict per UDP datagram, there and back."""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import time

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import bencode, conf

# No datagram is longer.
REPLY_LIMIT = 65536
# The daemon keeps the password and the cookie in a buffer of 64 bytes with a zero at its end.
SECRET_LIMIT = 63
# The unit of the daemon's cookies.
COOKIE_MS = 1024
# Also said of a function that needs the password, when none is given.
NO_FUNCTION = "No functions matched your request"
# Functions for which a second call does no more than the first: they are called again when no reply comes.
REPEATABLE_PREFIXES = ("Admin_", "NodeStore_", "Core_nodeInfo", "Core_pid", "SwitchPinger_ping", "memory", "ping")
REPEATABLE = (
    "InterfaceController_peerStats",
    "InterfaceController_interfaces",
    "InterfaceController_disconnectPeer",
    "AuthorizedPasswords_add",
    "AuthorizedPasswords_list",
    "AuthorizedPasswords_remove",
)


class AdminError(Exception):
    """The daemon cannot be asked or refuses; the message names the function, the address and why.

    ``reason`` holds the daemon's own words when it refused, else it is empty.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


def _to_text(value):
    """The same value with text in place of bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_to_text(item) for item in value]
    if isinstance(value, dict):
        return {_to_text(name): _to_text(item) for name, item in value.items()}
    return value


class Transport:
    """Calls the admin interface of one daemon. `timeout` is in seconds, for each of the attempts."""

    def __init__(self, host: str = "127.0.0.1", port: int = 11234, password: str = "", timeout: float = 2.0, attempts: int = 3):
        self.host, self.port, self.password = host, port, password
        self.timeout, self.attempts = timeout, attempts

    def error(self, function: str, why: str, reason: str = "") -> AdminError:
        """The error to raise about a call."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return AdminError(f"cjdns at {host}:{self.port}, {function}: {why}", reason)

    def _message(self, function: str, arguments: dict, txid: str, cookie: str | None) -> bytes:
        """Write a request; with a cookie it is authenticated. Raises AdminError when the daemon would not take it."""
        request = {"q": function, "args": arguments, "txid": txid}
        mark = ""
        if cookie is not None:
            secret = (self.password.encode("utf-8", "surrogateescape") + cookie.encode("ascii"))[:SECRET_LIMIT]
            mark = hashlib.sha256(secret).hexdigest()
            request.update(q="auth", aq=function, cookie=cookie, hash=mark)
        try:
            message = bencode.encode(request)
        except bencode.BencodeError as error:
            raise self.error(function, f"the arguments cannot be sent: {error}") from None
        if b"\0" in message:
            raise self.error(function, "the arguments cannot be sent: one holds a zero byte")
        if len(message) > conf.REQUEST_LIMIT:
            over = len(message) - conf.REQUEST_LIMIT
            raise self.error(function, f"the request is {over} bytes too long for cjdns ({conf.REQUEST_LIMIT}): use shorter arguments")
        # The hash covers the request with the secret in its own place.
        return message.replace(mark.encode(), hashlib.sha256(message).hexdigest().encode(), 1) if mark else message

    def _open(self, function: str) -> socket.socket:
        if not 1 <= self.port <= 65535:
            raise self.error(function, "cannot be reached: a port is a number from 1 to 65535")
        try:
            family, kind, protocol, _name, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, kind, protocol)
        except (OSError, UnicodeError, OverflowError) as error:
            raise self.error(function, f"cannot be reached: {error}") from None
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            raise self.error(function, f"cannot be reached: {error}") from None
        return sock

    def _exchange(self, sock: socket.socket, function: str, message: bytes, txid: str, timeout: float) -> dict | None:
        """Send a request and wait for its reply; None when none came in time."""
        deadline = time.monotonic() + timeout
        try:
            sock.send(message)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                sock.settimeout(left)
                reply = self._read(sock.recv(REPLY_LIMIT))
                # The daemon refuses what is too long before it has read the transaction number.
                if reply.get("txid", txid if reply.get("error") == "Request too big." else None) == txid:
                    return reply
        except socket.timeout:
            return None
        except ConnectionRefusedError:
            raise self.error(function, "nothing listens there: is the service running?") from None
        except OSError as error:
            raise self.error(function, f"cannot be reached: {error}") from None

    @staticmethod
    def _read(data: bytes) -> dict:
        """The reply in a datagram; empty when it is none. What is no reply is waited past, as a late one is."""
        try:
            reply = _to_text(bencode.decode(data))
        except bencode.BencodeError:
            return {}
        return reply if isinstance(reply, dict) else {}

    def _cookie(self, sock: socket.socket, timeout: float) -> str:
        """Fetch a cookie: the daemon's time, which it wants to see again within 20 s in a call with a password."""
        for _attempt in range(self.attempts):
            txid = secrets.token_hex(8)
            reply = self._exchange(sock, "cookie", self._message("cookie", {}, txid, None), txid, timeout)
            if reply is not None:
                cookie = reply.get("cookie")
                if not isinstance(cookie, str) or not re.fullmatch("[0-9]{1,15}", cookie):
                    raise self.error("cookie", "the reply holds no cookie: is this the admin interface of cjdns?")
                return cookie
        raise self.error("cookie", self._silence(timeout, self.attempts))

    def now_ms(self) -> int:
        """The daemon's own time in milliseconds, at most 1.1 s behind.

        Its clock keeps the pace of its start: when that of the system was set since, or the machine slept, the two differ.
        """
        with self._open("cookie") as sock:
            return int(self._cookie(sock, self.timeout)) * COOKIE_MS

    @staticmethod
    def _silence(timeout: float, attempts: int) -> str:
        return f"no reply within {timeout:g} s, {attempts} time{'s' if attempts != 1 else ''}"

    def check(self, function: str, arguments: dict, auth: bool = False) -> None:
        """Raise AdminError when such a call could not be sent; nothing is."""
        self._message(function, arguments, "0" * 16, "0" * 10 if auth else None)

    def call(self, function: str, arguments: dict | None = None, auth: bool = False, timeout: float | None = None) -> dict:
        """Call a function; the reply as text and numbers, without what only carries it. Raises AdminError.

        A function that is not known to be harmless when repeated is sent once: without a reply it may or may not have been done.
        """
        timeout = self.timeout if timeout is None else timeout
        arguments = arguments or {}
        repeatable = function in REPEATABLE or function.startswith(REPEATABLE_PREFIXES)
        attempts = self.attempts if repeatable else 1
        self.check(function, arguments, auth)
        with self._open(function) as sock:
            for _attempt in range(attempts):
                cookie = self._cookie(sock, timeout) if auth else None
                txid = secrets.token_hex(8)
                reply = self._exchange(sock, function, self._message(function, arguments, txid, cookie), txid, timeout)
                if reply is not None:
                    return self._checked(function, reply)
        unknown = "" if repeatable else "; it is not known whether it was done"
        raise self.error(function, self._silence(timeout, attempts) + unknown)

    def _checked(self, function: str, reply: dict) -> dict:
        reason = reply.get("error", "none")
        if reason != "none":
            reason = str(reason)[:200]
            advice = ""
            if reason == "Auth failed.":
                advice = " The admin password is not that of the daemon: see admin.password in its configuration."
            raise self.error(function, f"the daemon refuses: {reason}{advice}", reason)
        return {name: value for name, value in reply.items() if name != "txid"}
