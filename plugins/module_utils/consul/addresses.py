# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Addresses of agents: literal IPv4 and IPv6, with or without a port."""

from __future__ import annotations

import ipaddress
import re

WITH_PORT = re.compile(r"\[(?P<v6>[^\]]+)\](?::(?P<port6>\d+))?|(?P<v4>[0-9.]+):(?P<port4>\d+)")


def parse_peer(text: str) -> tuple[str, int | None]:
    """Split `fc00::1`, `[fc00::1]`, `[fc00::1]:8301`, `10.0.0.1` or `10.0.0.1:8301` into address and port.

    ValueError for anything else: names must not be needed to find the mesh that serves names.
    """
    address, port = text, None
    match = WITH_PORT.fullmatch(text)
    if match:
        address = match["v6"] or match["v4"]
        number = match["port6"] or match["port4"]
        port = int(number) if number else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{text!r} has no valid port")
    return str(ipaddress.ip_address(address)), port


def format_peer(address: str, port: int) -> str:
    """Write a peer the one way that every version of Consul takes."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def other_peers(peers: list[str], own: str, port: int) -> list[str]:
    """List the peers to join, sorted, each once, without the node itself.

    Consul counts itself as a success and then stops trying, which leaves the node alone.
    """
    me = str(ipaddress.ip_address(own))
    parsed = (parse_peer(peer) for peer in peers)
    return sorted({format_peer(address, number or port) for address, number in parsed if address != me})
