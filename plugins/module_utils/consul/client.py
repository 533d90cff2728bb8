# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The HTTP API of a Consul agent, over HTTP, HTTPS or a Unix socket.

Paths, parameters and the shapes of the answers are those of Consul's API documentation; they are the same from version 1.8 on.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import socket
import ssl
import time
import typing
import urllib.parse

DEFAULT_PORT = 8500
# Below this the mesh keeps its own in the key/value store.
KV_PREFIX = "vdloo-mesh/v1/"
# The agent holds a call for 7 s while there is no leader, and only then says so.
SLOW_CALL_S = 10.0
MAX_BYTES = 8 * 1024 * 1024
CHUNK = 64 * 1024
# To the time that a blocking query may wait, the server adds up to a sixteenth.
WAIT_JITTER = 1 / 16


class ClientError(Exception):
    """The agent did not answer, or answered with an error; the message names the call and says why."""


class NotFound(ClientError):
    """The agent answered that there is no such thing."""


class TooBig(ClientError):
    """The answer is longer than the client takes."""


class Reply(typing.NamedTuple):
    """An answer: its JSON, and what the agent says about how fresh it is."""

    value: typing.Any
    index: int
    known_leader: bool
    last_contact_ms: int


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Client:
    """One agent. Calls reuse one connection, so a client belongs to one thread."""

    def __init__(
        self,
        addr: str = f"http://127.0.0.1:{DEFAULT_PORT}",
        token: str = "",
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
        verify: bool = True,
        timeout: float = SLOW_CALL_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Raise ValueError for an `addr` that is none, and ClientError for certificates that cannot be read. `timeout` in seconds."""
        self.scheme, self.host, self.port = split_addr(addr)
        self.addr = addr
        self.token = token
        self.timeout = timeout
        self.max_bytes = max_bytes
        self._connection: http.client.HTTPConnection | None = None
        self._tls = None
        if self.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca_file or None)
                if not verify:
                    self._tls.check_hostname = False
                    self._tls.verify_mode = ssl.CERT_NONE
                if cert_file:
                    self._tls.load_cert_chain(cert_file, key_file or None)
            except OSError as error:
                named = ", ".join(path for path in (ca_file, cert_file, key_file) if path)
                raise ClientError(f"{addr}: cannot use the certificate files {named}: {error}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(
        self, method: str, path: str, params: dict[str, str] | None = None, body: bytes | None = None, timeout: float | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Make one call; return status, headers and body, whatever the status. The whole call ends within `timeout` seconds.

        A parameter with an empty value is a flag, as in `?stale`. Raises ClientError, or TooBig.
        """
        target = urllib.parse.quote(path, safe="/%") + ("?" + urllib.parse.urlencode(params) if params else "")
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        kept = self._connection is not None
        try:
            return self._exchange(method, target, body, deadline)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            # The agent closes a connection that was idle; only then is asking again no second call.
            if not kept or method != "GET":
                raise ClientError(f"{method} {self.addr}{target}: {error}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise ClientError(f"{method} {self.addr}{target}: {_reason(error)}") from error
        try:
            return self._exchange(method, target, body, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise ClientError(f"{method} {self.addr}{target}: {_reason(error)}") from error

    def _exchange(self, method: str, target: str, body: bytes | None, deadline: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self._connection = self._connection or self._connect(_left(deadline))
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline))
        headers = {"X-Consul-Token": self.token} if self.token else {}
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        parts, size = [], 0
        # An answer that drips in is no answer: the time is for all of it.
        while True:
            if connection.sock is not None:
                connection.sock.settimeout(_left(deadline))
            part = response.read1(CHUNK)
            if not part:
                break
            size += len(part)
            if size > self.max_bytes:
                self.close()
                raise TooBig(f"{method} {self.addr}{target}: the answer is longer than {self.max_bytes} bytes")
            parts.append(part)
        response.close()
        if response.will_close:
            self.close()
        return response.status, response.headers, b"".join(parts)

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        # http.client and not urllib: a proxy of the environment must never stand between a node and itself.
        if self.scheme == "unix":
            return _UnixConnection(self.host, timeout)
        if self.scheme == "https":
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def get(self, path: str, params: dict[str, str] | None = None, accept: tuple[int, ...] = (200,), timeout: float | None = None) -> Reply:
        """Make a GET and return the JSON of its answer. Raises NotFound for 404, ClientError for every other status not in `accept`."""
        status, headers, body = self.request("GET", path, params, timeout=timeout)
        if status == 404 and 404 not in accept:
            raise NotFound(f"GET {self.addr}{path}: 404, there is no such thing")
        if status not in accept:
            raise ClientError(f"GET {self.addr}{path}: {status} {body[:200].decode('utf-8', 'replace').strip()}")
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ClientError(f"GET {self.addr}{path}: the answer is not JSON") from error
        known_leader = headers.get("X-Consul-Knownleader", "true") == "true"
        return Reply(value, _number(headers.get("X-Consul-Index")), known_leader, _number(headers.get("X-Consul-Lastcontact")))

    def put(self, path: str, body: bytes = b"", params: dict[str, str] | None = None) -> typing.Any:
        """Make a PUT and return the JSON of its answer, None when it has no body."""
        status, _headers, answer = self.request("PUT", path, params, body)
        if status != 200:
            raise ClientError(f"PUT {self.addr}{path}: {status} {answer[:200].decode('utf-8', 'replace').strip()}")
        try:
            return json.loads(answer) if answer else None
        except (ValueError, RecursionError) as error:
            raise ClientError(f"PUT {self.addr}{path}: the answer is not JSON") from error

    def watch(self, path: str, index: int = 0, wait_s: float = 60, params: dict[str, str] | None = None) -> Reply:
        """Make a blocking query: answer when the index is above `index`, or after `wait_s` seconds with what there is.

        Hand in the index of the last reply. An index that went backwards is answered as 0, so that the next query starts anew.
        """
        query = {**(params or {}), "index": str(index), "wait": f"{wait_s * 1000:.0f}ms"}
        reply = self.get(path, query, timeout=wait_s * (1 + WAIT_JITTER) + self.timeout)
        return reply._replace(index=0) if reply.index < index else reply

    def members(self, timeout: float | None = None) -> list[dict]:
        """What gossip knows of all agents; it needs no leader. Status 1 is alive, 2 leaving, 3 left, 4 failed."""
        return _a(list, self.get("/v1/agent/members", timeout=timeout).value, "/v1/agent/members")

    def myself(self) -> dict:
        """What the agent says of itself: Config, DebugConfig, Member and more."""
        return _a(dict, self.get("/v1/agent/self").value, "/v1/agent/self")

    def leader(self, timeout: float | None = None) -> str:
        """The leader's address, or an empty string; it answers at once, leader or not."""
        return str(self.get("/v1/status/leader", timeout=timeout).value or "")

    def kv(self, prefix: str, stale: bool = True) -> dict[str, str]:
        """All keys that begin with `prefix`, with their values as text; empty when there are none.

        Bytes that are not UTF-8 become U+FFFD. With `stale` any server may answer, also without a leader.
        """
        params = {"recurse": "", **({"stale": ""} if stale else {})}
        try:
            entries = _a(list, self.get("/v1/kv/" + prefix, params).value, "/v1/kv")
        except NotFound:
            return {}
        return {str(entry["Key"]): _text(entry.get("Value")) for entry in entries if isinstance(entry, dict) and "Key" in entry}

    def kv_keys(self, prefix: str) -> list[str]:
        """The names of all keys that begin with `prefix`, without their values."""
        try:
            return [str(key) for key in _a(list, self.get("/v1/kv/" + prefix, {"keys": "", "stale": ""}).value, "/v1/kv")]
        except NotFound:
            return []


def split_addr(addr: str) -> tuple[str, str, int]:
    """Split an address as CONSUL_HTTP_ADDR has it into scheme (http, https or unix), host (or path) and port (0 for unix).

    Raises ValueError with what to write.
    """
    wrong = ValueError(f"{addr!r} is no address of a Consul agent: write 127.0.0.1:8500, https://[::1]:8501 or unix:///run/consul.sock")
    if addr.startswith("unix://"):
        if not addr[len("unix://") :].startswith("/"):
            raise wrong
        return "unix", addr[len("unix://") :], 0
    try:
        parts = urllib.parse.urlsplit(addr if "://" in addr else "http://" + addr)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise wrong
    return parts.scheme, parts.hostname, port


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(error: Exception) -> str:
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "no answer in time"
    return str(error) or type(error).__name__


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 20 else 0


def _text(value: object) -> str:
    try:
        return base64.b64decode(value or "").decode("utf-8", "replace")
    except (TypeError, ValueError, binascii.Error):
        return ""


def _a(kind: type, value: typing.Any, path: str) -> typing.Any:
    if not isinstance(value, kind):
        raise ClientError(f"GET {path}: the answer is not what Consul answers")
    return value
