# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who listens on this machine, read from /proc."""

from __future__ import annotations

import glob
import ipaddress
import os
import socket
import struct
import sys
import typing

TCP_LISTEN = "0A"
UDP_BOUND = "07"


class Listener(typing.NamedTuple):
    protocol: str
    address: str
    port: int
    inode: str
    uid: int


def parse_address(text: str) -> str:
    """Decode the kernel's hexadecimal address, which is in words of the machine's own byte order."""
    words = struct.unpack(f">{len(text) // 8}I", bytes.fromhex(text))
    packed = struct.pack(f"{'<' if sys.byteorder == 'little' else '>'}{len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


def parse_listeners(text: str, protocol: str) -> list[Listener]:
    """Read the listening sockets out of /proc/net/{tcp,tcp6,udp,udp6}."""
    state = TCP_LISTEN if protocol == "tcp" else UDP_BOUND
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == state:
            address, port = fields[1].split(":")
            found.append(Listener(protocol, parse_address(address), int(port, 16), fields[9], int(fields[7])))
    return found


def listeners(proc: str = "/proc") -> list[Listener]:
    found = []
    for protocol in ("tcp", "udp"):
        for name in (protocol, protocol + "6"):
            try:
                with open(f"{proc}/net/{name}", encoding="ascii") as stream:
                    found += parse_listeners(stream.read(), protocol)
            except FileNotFoundError:  # a kernel without IPv6
                continue
    return found


def clashes(listener: Listener, address: str, port: int) -> bool:
    """Tell whether a socket stands in the way of one at `address`: the same address, or a wildcard at either side."""
    if listener.port != port:
        return False
    theirs, ours = ipaddress.ip_address(listener.address), ipaddress.ip_address(address)
    if theirs.is_unspecified:
        # A wildcard of IPv6 mostly takes IPv4 as well.
        return theirs.version == 6 or ours.version == 4
    return theirs == ours or (ours.is_unspecified and (ours.version == 6 or theirs.version == 4))


def owners(inodes: set[str], proc: str = "/proc") -> dict[str, tuple[int, str]]:
    """Find the process of each socket: {inode: (pid, name)}.

    In a container even root may not look into the processes of others: what is not found may still have an owner.
    """
    found = {}
    for link in glob.glob(f"{proc}/[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:  # the process or the file has gone meanwhile
            continue
        inode = target[8:-1] if target.startswith("socket:[") else ""
        if inode in inodes:
            holder = link[len(proc) + 1 :].split("/", 1)[0]
            try:
                with open(f"{proc}/{holder}/comm", encoding="utf-8", errors="replace") as stream:
                    found[inode] = (int(holder), stream.read().strip())
            except OSError:
                continue
    return found
