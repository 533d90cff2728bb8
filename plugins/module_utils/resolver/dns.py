# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The words of DNS: zones, servers as dnsmasq writes them, and one question to one server."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct

from .host import ResolverError


def reverse_domain(network):
    """Return the DNS zone of a network's reverse names: fc00::/8 is c.f.ip6.arpa."""
    try:
        parsed = ipaddress.ip_network(network)
    except ValueError as exc:
        raise ResolverError(f"{network} is not a network: {exc}") from exc
    step = 4 if parsed.version == 6 else 8
    if parsed.prefixlen % step or not parsed.prefixlen:
        raise ResolverError(f"{network}: the prefix length of a reverse zone must be a multiple of {step}")
    labels = parsed.network_address.reverse_pointer.split(".")
    zone = len(labels) - 2 - parsed.prefixlen // step
    return ".".join(labels[zone:])


def zones(domains):
    """Return the zones of domains, of which those in CIDR form stand for the reverse zone of a network."""
    return [reverse_domain(name) if "/" in name else name for name in domains]


def dnsmasq_server(entry):
    """Translate a server of systemd-resolved's (``address:port%interface#name``) to dnsmasq's words, or return None."""
    entry = entry.split("#")[0]
    match = re.match(r"^\[(?P<v6>[0-9A-Fa-f:.]+)\](?::(?P<port6>\d+))?(?:%(?P<if6>\S+))?$", entry) or re.match(
        r"^(?P<v4>\d+\.\d+\.\d+\.\d+)(?::(?P<port4>\d+))?(?:%(?P<if4>\S+))?$", entry
    )
    if match:
        found = {key[:-1]: value for key, value in match.groupdict().items() if value}
        address, port, interface = found["v"], found.get("port", ""), found.get("if", "")
    else:
        address, dummy, interface = entry.partition("%")
        port = ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    scope = "%" + interface if interface and parsed.is_link_local else ""
    device = "@" + interface if interface and not parsed.is_link_local else ""
    return address + scope + ("#" + port if port else "") + device


def query(name, qtype, qclass=1, ident=None):
    """Return a DNS query packet that asks for recursion."""
    ident = struct.unpack("!H", os.urandom(2))[0] if ident is None else ident
    packet = struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0)
    for label in name.rstrip(".").split("."):
        raw = label.encode("idna") if not label.isascii() else label.encode("ascii")
        packet += struct.pack("!B", len(raw)) + raw
    return packet + b"\0" + struct.pack("!2H", qtype, qclass)


def ask(server, name, qtype=1, qclass=1, timeout=2.0, tries=2):
    """Ask one server directly. Return (rcode, number of answers), or None if no answer came."""
    address, dummy, port = server.partition("@")[0].partition("#")
    try:
        packet = query(name, qtype, qclass)
        info = socket.getaddrinfo(address, int(port or 53), type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    except (OSError, UnicodeError, struct.error):
        return None
    for dummy in range(tries):
        with socket.socket(info[0], socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect(info[4])
                sock.send(packet)
                while True:
                    answer = sock.recv(4096)
                    if len(answer) >= 12 and answer[:2] == packet[:2]:
                        break
            except OSError:
                # Nobody listens, no route, or too late: all the same to who waits for a name.
                continue
        flags, dummy, answers = struct.unpack("!3H", answer[2:8])
        return flags & 0xF, answers
    return None
