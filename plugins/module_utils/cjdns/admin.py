# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What the admin interface of cjdns tells of a daemon, and what it can be told.

What comes back is not trusted: whatever a daemon (or what took its port) answers, the outcome is a value of the stated shape, a peer
that is left out and named in ``dropped``, or AdminError.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import keys, transport

# cjdns pings an ESTABLISHED peer after 3 s of silence: one that is silent for longer than this does not answer.
LIVE_SILENCE_MS = 10_000
ESTABLISHED = "ESTABLISHED"
# A switch of cjdns has 256 places, and a page six entries: nothing honest has more pages.
PAGE_LIMIT = 100

DIAL = "UDPInterface_beginConnection"
AUTHORIZE = "AuthorizedPasswords_add"

AdminError = transport.AdminError


class Address(NamedTuple):
    """How cjdns writes where a node is: protocol version (0: not known yet), switch label, public key."""

    version: int
    label: str
    public_key: str


def parse_address(text: str) -> Address:
    """Split ``v22.0000.0000.0000.0013.<52 characters>.k``; raises ValueError."""
    found = re.fullmatch(r"v([0-9]{1,9})\.([0-9a-fA-F]{4}(?:\.[0-9a-fA-F]{4}){3})\.([0-9a-zA-Z]{52}\.k)", text)
    if not found:
        raise ValueError("it is not written as v<version>.<label>.<public key>")
    public_key = found.group(3).lower()
    keys.validate_public_key(public_key)
    return Address(int(found.group(1)), found.group(2).lower(), public_key)


def _entry(entry: dict, name: str, default):
    """A value of an entry; the default when it is missing, ValueError when it is of another type."""
    value = entry.get(name, default)
    if not isinstance(value, type(default)):
        raise ValueError(f"{name} is not a {'number' if isinstance(default, int) else 'text'}")
    return value


def parse_peer(entry, now_ms: int) -> dict:
    """Read one entry of InterfaceController_peerStats, of any version of the daemon; raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("it is not a dict")
    if "addr" in entry:
        address = parse_address(_entry(entry, "addr", ""))
    else:
        # Releases before 21 told the parts one by one.
        parts = (_entry(entry, "version", 0), _entry(entry, "switchLabel", ""), _entry(entry, "publicKey", ""))
        address = Address(parts[0], parts[1], parts[2].lower())
    return {
        "public_key": address.public_key,
        "address": keys.address_from_public(address.public_key),
        "endpoint": _entry(entry, "lladdr", ""),
        "state": _entry(entry, "state", ""),
        "user": _entry(entry, "user", ""),
        "version": address.version,
        "label": address.label,
        "incoming": bool(_entry(entry, "isIncoming", 0)),
        "silent_ms": max(0, now_ms - _entry(entry, "last", 0)),
        "bytes_in": _entry(entry, "bytesIn", 0),
        "bytes_out": _entry(entry, "bytesOut", 0),
        "interface": _entry(entry, "ifNum", -1),
    }


def dial_arguments(endpoint: str, public_key: str, password: str, login: str, name: str, interface: int) -> dict:
    """The arguments of the call that dials a peer; what is empty is left out."""
    arguments = {"address": endpoint, "publicKey": public_key, "password": password, "interfaceNumber": interface}
    arguments.update({key: value for key, value in (("login", login), ("peerName", name)) if value})
    return arguments


class Client(transport.Transport):
    """Asks one daemon. `timeout` is in seconds, for each of the attempts of a call."""

    def __init__(self, host: str = "127.0.0.1", port: int = 11234, password: str = "", timeout: float = 2.0, attempts: int = 3):
        super().__init__(host, port, password, timeout, attempts)
        # What of the last peers() could not be read, in words.
        self.dropped: list[str] = []

    def _pages(self, function: str, name: str, identity: tuple, auth: bool = False) -> list:
        """Collect the entries of all pages, each once; `identity` names the values that tell entries apart."""
        entries: dict = {}
        patience = self.timeout * self.attempts
        end = time.monotonic() + patience
        for page in range(PAGE_LIMIT):
            if time.monotonic() > end:
                raise self.error(function, f"page {page} of {name} did not come within {patience:g} s")
            reply = self.call(function, {"page": page}, auth)
            listed = reply.get(name)
            if not isinstance(listed, list):
                raise self.error(function, f"the reply holds no list of {name}")
            known = len(entries)
            for entry in listed:
                marks = [entry.get(part) for part in identity] if isinstance(entry, dict) else entry
                entries.setdefault(repr(marks), entry)
            # A daemon that knows no pages sends the same again.
            if len(entries) == known or not reply.get("more"):
                return list(entries.values())
        raise self.error(function, f"there are more than {PAGE_LIMIT} pages of {name}")

    def node(self) -> dict:
        """The daemon itself: {"address", "public_key", "version"}."""
        function = "Core_nodeInfo"
        try:
            own = parse_address(str(self.call(function).get("myAddr")))
            version, public_key = own.version, own.public_key
        except AdminError as error:
            if not error.reason.startswith(transport.NO_FUNCTION):
                raise
            # Releases before 21.2 know themselves by their routes only.
            function = "NodeStore_nodeForAddr"
            result = self.call(function).get("result")
            result = result if isinstance(result, dict) else {}
            version, public_key = result.get("protocolVersion"), str(result.get("key")).lower()
        except ValueError as error:
            raise self.error(function, f"the address of the node cannot be read: {error}") from None
        try:
            address = keys.address_from_public(public_key)
        except keys.KeyFormatError as error:
            raise self.error(function, f"the public key of the node cannot be read: {error}") from None
        return {"address": address, "public_key": public_key, "version": version if isinstance(version, int) else 0}

    def peers(self) -> list[dict]:
        """The links of the daemon, sorted by public key; what cannot be read is left out and told in ``dropped``.

        Each is {"public_key", "address" (overlay), "endpoint" ("IP:PORT", empty when not told), "state", "user", "version", "label",
        "incoming", "silent_ms", "bytes_in", "bytes_out", "interface" (-1 when not told)}.
        """
        entries = self._pages("InterfaceController_peerStats", "peers", ("addr", "publicKey", "switchLabel", "lladdr"))
        now_ms = self.now_ms()
        self.dropped, found = [], []
        for entry in entries:
            try:
                found.append(parse_peer(entry, now_ms))
            except ValueError as error:
                shown = entry.get("addr", entry.get("publicKey")) if isinstance(entry, dict) else entry
                self.dropped.append(f"peer {str(shown)[:100]!r} was left out: {error}")
        return sorted(found, key=lambda peer: (peer["public_key"], peer["endpoint"], peer["label"]))

    def interfaces(self) -> list[dict]:
        """The interfaces that links run over: [{"number", "bind" ("IP:PORT" or the name of a device)}]. Needs the password."""
        function = "InterfaceController_interfaces"
        entries = self._pages(function, "ifaces", ("ifNum", "name"), auth=True)
        found = []
        for entry in entries:
            number, name = (entry.get("ifNum"), entry.get("name")) if isinstance(entry, dict) else (None, None)
            if not isinstance(number, int) or not isinstance(name, str):
                raise self.error(function, "the reply holds an interface without a number or a name")
            found.append({"number": number, "bind": re.sub(r"^(UDP/IPv[46]|ETH)/", "", name)})
        return sorted(found, key=lambda interface: interface["number"])

    def users(self) -> list[str]:
        """The names of those who may dial this node, sorted. Needs the password."""
        users = self.call("AuthorizedPasswords_list", auth=True).get("users")
        if not isinstance(users, list) or not all(isinstance(user, str) for user in users):
            raise self.error("AuthorizedPasswords_list", "the reply holds no list of users")
        return sorted(users)

    def connect(self, endpoint: str, public_key: str, password: str, login: str = "", name: str = "", interface: int = 0) -> None:
        """Dial a peer. That nothing is raised does not mean that it answers: see its state in peers()."""
        if not password:
            # Daemons of several releases die of a call without one.
            raise self.error(DIAL, "a password is needed to dial a peer")
        self.call(DIAL, dial_arguments(endpoint, public_key, password, login, name, interface), auth=True)

    def disconnect(self, public_key: str) -> bool:
        """Drop every link with that key; whether there was one."""
        function = "InterfaceController_disconnectPeer"
        try:
            reply = self.call(function, {"pubkey": public_key}, auth=True)
        except AdminError as error:
            if error.reason.startswith("no peer found"):
                return False
            raise
        if not reply.get("success"):
            raise self.error(function, "the daemon tells neither success nor an error")
        return True

    def authorize(self, user: str, password: str) -> bool:
        """Let a peer in that dials with the password; whether that was new."""
        try:
            self.call(AUTHORIZE, {"user": user, "password": password}, auth=True)
        except AdminError as error:
            if error.reason.startswith("Password already added"):
                return False
            raise
        return True

    def unauthorize(self, user: str) -> bool:
        """Take away the passwords of a user; whether there was one. Its present links stay."""
        try:
            self.call("AuthorizedPasswords_remove", {"user": user}, auth=True)
        except AdminError as error:
            # The daemon has no better words for a user that is not there.
            if error.reason.startswith("Unknown error") and user not in self.users():
                return False
            raise
        return True
