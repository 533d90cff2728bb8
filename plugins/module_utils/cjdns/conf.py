# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The dialect of cjdroute.conf: pure functions, data in, data out.

The file looks like JSON, but the daemon's parser knows less than JSON: no true, false, null or fractions, no escapes inside strings, and
LF as the only line end. It reads entries of ``connectTo`` as arguments of a call, which has a size limit.
"""

from __future__ import annotations

import ipaddress
import json
import re

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import bencode, keys

# The daemon answers a longer admin request with an error, and its own start-up then gives up.
REQUEST_LIMIT = 512
# Releases before 22.2 clean a configuration into a buffer of this size.
CLEANCONF_LIMIT = 10000
# The authentication of the admin interface cuts what is longer.
ADMIN_PASSWORD_LIMIT = 53
CONNECT_KEYS = ("login", "password", "peerName", "publicKey")
SECRET_KEYS = ("password", "privateKey")
INTEGER_MAXIMUM = 2**63 - 1
# How the modules are given peers.
PEERS_ARGUMENT = {
    "type": "list",
    "elements": "dict",
    "default": [],
    "options": {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "public_key": {"type": "str", "required": True},
        "password": {"type": "str", "no_log": True},
        "login": {"type": "str"},
    },
}
UNREADABLE = 'holds a character that cjdns cannot read: use printable ASCII without " and \\'


class ConfError(ValueError):
    """A configuration cannot be used; the message says where and what to do."""


def is_readable(text: str) -> bool:
    """Whether the daemon's parser can read a text."""
    return bool(re.fullmatch("[ -~]*", text)) and '"' not in text and "\\" not in text


def split_endpoint(text: str) -> tuple[int, str, int]:
    """Split ``192.0.2.1:4321`` or ``[2001:db8::1]:4321`` into (4 or 6, address, port)."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= 65535:
        raise ConfError("write it as IP:PORT or [IPv6]:PORT, with a port from 1 to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    literal = host[1:-1] if bracketed else host
    try:
        address = ipaddress.ip_address(literal)
    except ValueError:
        raise ConfError("cjdns takes no host names: write the literal address as IP:PORT or [IPv6]:PORT") from None
    if "%" in literal:
        raise ConfError("cjdns takes no zone after the address: leave out the part from % on")
    if bracketed != (address.version == 6):
        raise ConfError("an IPv6 address stands in brackets, an IPv4 address does not: IP:PORT or [IPv6]:PORT")
    if address.is_unspecified or address.is_multicast:
        raise ConfError(f"{literal} is not the address of one machine")
    if address.version == 6 and address.packed[0] == 0xFC:
        raise ConfError(f"{literal} is an overlay address: a peer is dialled at an address of the network below")
    return address.version, literal, int(port_text)


def check_peers(peers: list[dict], own_public_key: str | None = None) -> list[str]:
    """List what is wrong with the peers to dial, each with its name and what to do."""
    problems = []
    seen: dict[str, str] = {}
    for peer in peers:
        name = peer["name"]
        problems += [
            f"cjdns_peers, {name}: {key} {UNREADABLE}" for key in ("name", "password", "login") if not is_readable(peer.get(key) or "")
        ]
        try:
            split_endpoint(peer["address"])
        except ConfError as error:
            problems.append(f"cjdns_peers, {name}: address {peer['address']!r} cannot be used: {error}")
        try:
            keys.validate_public_key(peer["public_key"])
        except keys.KeyFormatError as error:
            problems.append(f"cjdns_peers, {name}: public_key {peer['public_key']!r} cannot be used: {error}")
        if own_public_key is not None and peer["public_key"].lower() == own_public_key.lower():
            problems.append(f"cjdns_peers, {name}: public_key is that of the node itself: a node cannot be its own peer, take this one out")
        if peer.get("password") == "":
            problems.append(f"cjdns_peers, {name}: password is empty: set the one that this peer gave you")
        if peer["address"] in seen:
            problems.append(f"cjdns_peers, {name}: address {peer['address']} is also that of {seen[peer['address']]}: keep one of the two")
        seen[peer["address"]] = name
    return problems


def udp_interfaces(config: dict) -> list[dict]:
    """The UDP interfaces of a configuration of good shape; the daemon takes a list or a single one."""
    interfaces = config.get("interfaces", {}).get("UDPInterface", [])
    return [interfaces] if isinstance(interfaces, dict) else interfaces


def bind_family(interface: dict) -> int:
    """The IP version, 4 or 6, of the socket of a UDP interface."""
    return 6 if str(interface.get("bind", "")).startswith("[") else 4


def recall_passwords(peers: list[dict], present: dict) -> tuple[list[dict], list[str]]:
    """Give each peer that comes without a password the one of its entry in the present configuration.

    Returns the peers that have a password, and the names of those for which there is none.
    """
    entries = [entry for interface in udp_interfaces(present) for entry in interface.get("connectTo", {}).values()]
    known = {entry["publicKey"]: entry["password"] for entry in entries if isinstance(entry.get("publicKey"), str) and "password" in entry}
    recalled = [{**peer, "password": peer.get("password") or known.get(peer["public_key"])} for peer in peers]
    return [peer for peer in recalled if peer["password"]], [peer["name"] for peer in recalled if not peer["password"]]


def place_peers(config: dict, peers: list[dict]) -> dict:
    """Return the configuration with each peer that has a password under the first UDP interface of its address family."""
    placed = json.loads(json.dumps(config))
    for peer in sorted((peer for peer in peers if peer.get("password")), key=lambda peer: peer["address"]):
        family = split_endpoint(peer["address"])[0]
        homes = [interface for interface in udp_interfaces(placed) if bind_family(interface) == family]
        if not homes:
            raise ConfError(
                f"cjdns_peers, {peer['name']}: {peer['address']} is IPv{family}, but the configuration has no UDP interface for it: "
                "add one to interfaces.UDPInterface in cjdns_config"
            )
        entry = {"password": peer["password"], "peerName": peer["name"], "publicKey": peer["public_key"]}
        if peer.get("login"):
            entry["login"] = peer["login"]
        homes[0].setdefault("connectTo", {})[peer["address"]] = entry
    return placed


def alone(config: dict) -> dict:
    """Return the configuration without its peers and those who may dial it."""
    left = json.loads(json.dumps(dict(config, authorizedPasswords=[])))
    for interface in udp_interfaces(left):
        interface["connectTo"] = {}
    return left


def connect_request_length(address: str, entry: dict) -> int:
    """The length of the request in which the daemon's start-up sends one entry of connectTo to its core."""
    return len(
        bencode.encode(
            {
                "q": "auth",
                "aq": "UDPInterface_beginConnection",
                "args": dict(entry, address=address, interfaceNumber=10),
                "cookie": "1" * 10,
                "hash": "0" * 64,
                # Clients make identifiers of different lengths; this is the longest that was seen.
                "txid": "0" * 16,
            }
        )
    )


def _check_dialect(value, where: str) -> list[str]:
    """List the values that the daemon's parser cannot read, each with its place."""
    if isinstance(value, dict):
        problems = []
        for key, item in value.items():
            problems += _check_dialect(key, f"the key {key!r}{where and ' in '}{where}")
            problems += _check_dialect(item, f"{where}.{key}" if where else key)
        return problems
    if isinstance(value, list):
        return [problem for place, item in enumerate(value) for problem in _check_dialect(item, f"{where}[{place}]")]
    if isinstance(value, bool):
        return [f"{where} is {str(value).lower()}: cjdns knows no booleans, write 1 or 0"]
    if value is None:
        return [f"{where} has no value: cjdns knows no null, leave the key out"]
    if isinstance(value, float):
        return [f"{where} has a fraction: cjdns knows whole numbers only"]
    if isinstance(value, int):
        return [] if 0 <= value <= INTEGER_MAXIMUM else [f"{where} is {value}: cjdns takes numbers from 0 to {INTEGER_MAXIMUM}"]
    return [] if is_readable(value) else [f"{where} {UNREADABLE}"]


def _check_connect_to(interface: dict, where: str, own_public_key: str | None) -> list[str]:
    problems = []
    for address, entry in interface.get("connectTo", {}).items():
        place = f"{where}.connectTo, {entry.get('peerName', address)}"
        try:
            family = split_endpoint(address)[0]
        except ConfError as error:
            problems.append(f"{place}: address {address!r} cannot be used: {error}")
            continue
        if family != bind_family(interface):
            problems.append(f"{place}: {address} is IPv{family}, but this interface is bound to {interface.get('bind')}")
        unknown = sorted(set(entry) - set(CONNECT_KEYS))
        if unknown:
            problems.append(f"{place}: {', '.join(unknown)} is not one of {', '.join(CONNECT_KEYS)}: take it out")
        if not entry.get("password"):
            problems.append(f"{place}: password is missing: cjdns dies without it")
        try:
            keys.validate_public_key(str(entry.get("publicKey", "")))
        except keys.KeyFormatError as error:
            problems.append(f"{place}: publicKey {entry.get('publicKey')!r} cannot be used: {error}")
            continue
        if own_public_key is not None and entry["publicKey"].lower() == own_public_key.lower():
            problems.append(f"{place}: this is the public key of the node itself: a node cannot be its own peer, take it out")
        length = connect_request_length(address, entry)
        if length > REQUEST_LIMIT:
            problems.append(
                f"{place}: the entry is {length - REQUEST_LIMIT} bytes too long for cjdns: use a shorter name, login or password"
            )
    return problems


def _check_passwords(config: dict) -> list[str]:
    problems = []
    owners: dict[str, str] = {}
    users = set()
    for place, entry in enumerate(config.get("authorizedPasswords", [])):
        user = entry.get("user", f"entry {place + 1}")
        password = entry.get("password")
        if not password:
            problems.append(f"cjdns_authorized_passwords, {user}: password is empty: set one, or take the entry out")
        elif password in owners:
            problems.append(f"cjdns_authorized_passwords, {user}: the password is also that of {owners[password]}: give each its own")
        else:
            owners[password] = user
        if user in users:
            problems.append(f"cjdns_authorized_passwords, {user}: the user is named twice: give each entry its own name")
        users.add(user)
    return problems


def check_shape(config: dict) -> list[str]:
    """List the parts that are not of the kind that the other checks rely on."""
    expected = (
        ("interfaces", dict, config.get("interfaces", {})),
        ("admin", dict, config.get("admin", {})),
        ("authorizedPasswords", list, config.get("authorizedPasswords", [])),
    )
    problems = [f"{where} is not a {kind.__name__}" for where, kind, value in expected if not isinstance(value, kind)]
    if problems:
        return problems
    for place, entry in enumerate(config.get("authorizedPasswords", [])):
        if not isinstance(entry, dict):
            problems.append(f"authorizedPasswords[{place}] is not a dict")
    interfaces = udp_interfaces(config)
    if not isinstance(interfaces, list):
        return problems + ["interfaces.UDPInterface is not a list"]
    for place, interface in enumerate(interfaces):
        where = f"interfaces.UDPInterface[{place}]"
        if not isinstance(interface, dict):
            problems.append(f"{where} is not a dict")
        elif not isinstance(interface.get("connectTo", {}), dict):
            problems.append(f"{where}.connectTo is not a dict")
        else:
            problems += [
                f"{where}.connectTo, {address} is not a dict"
                for address, entry in interface.get("connectTo", {}).items()
                if not isinstance(entry, dict)
            ]
    return problems


def check(config: dict, own_public_key: str | None = None) -> list[str]:
    """List everything that would keep the daemon from starting with this configuration; empty when it is good."""
    problems = _check_dialect(config, "") + check_shape(config)
    if problems:
        return [f"cjdns_config, {problem}" for problem in problems]
    if not config.get("admin", {}).get("bind"):
        problems.append("admin.bind is missing: set it to 127.0.0.1:PORT")
    if len(config.get("admin", {}).get("password", "")) > ADMIN_PASSWORD_LIMIT:
        problems.append(f"admin.password has more than {ADMIN_PASSWORD_LIMIT} characters: many clients cannot use it, shorten it")
    problems += _check_passwords(config)
    for place, interface in enumerate(udp_interfaces(config)):
        problems += _check_connect_to(interface, f"interfaces.UDPInterface[{place}]", own_public_key)
    return problems


def dump(config: dict) -> str:
    """Write a configuration: sorted, so that what means the same looks the same."""
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=True) + "\n"


def secrets(config) -> set[str]:
    """Collect every secret value of a configuration."""
    if isinstance(config, dict):
        found = {value for key, value in config.items() if key in SECRET_KEYS and isinstance(value, str)}
        return found.union(*(secrets(value) for value in config.values()))
    if isinstance(config, list):
        return set().union(*(secrets(item) for item in config))
    return set()


def masked(config, known: set[str]):
    """Return the configuration with a word in place of every secret: whether it is among the known ones or new."""
    if isinstance(config, dict):
        return {
            key: ("(secret)" if value in known else "(new secret)")
            if key in SECRET_KEYS and isinstance(value, str)
            else masked(value, known)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [masked(item, known) for item in config]
    return config


def mask_text(text: str, known: set[str]) -> str:
    """Replace the known secrets in a text, longest first."""
    for secret in sorted(known, key=len, reverse=True):
        if secret:
            text = text.replace(secret, "(secret)")
    return text


def strip_comments(text: str) -> str:
    """Remove ``//`` and ``/* */`` comments, but not what looks like one inside a string."""
    kept = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
    return kept.sub(lambda match: match.group(1) or " ", text)


def private_key_of(text: str) -> str | None:
    """Find the private key in the text of any cjdroute.conf, also in one with comments; None when it has none."""
    found = set(re.findall(r'"privateKey"\s*:\s*"([^"]*)"', strip_comments(text)))
    if len(found) > 1:
        raise ConfError("it holds more than one privateKey: keep the right one")
    return found.pop() if found else None
