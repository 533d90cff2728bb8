# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who holds a port of this machine."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import struct
import typing

# The kernel's number for a socket that waits for whoever comes.
LISTENING = {"tcp": "0A", "udp": "07"}
WORD = 8


class Listener(typing.NamedTuple):
    protocol: str
    address: str
    port: int
    inode: str
    uid: int


class Holder(typing.NamedTuple):
    """A process with sockets; the unit is empty where systemd does not run it as a service."""

    pid: int
    name: str
    unit: str
    inodes: frozenset[str]


def listeners(protocols: typing.Iterable[str] = ("tcp", "udp"), proc: str = "/proc") -> list[Listener]:
    """List the sockets that listen, with the addresses of both families."""
    found = []
    for protocol in protocols:
        for table in (protocol, protocol + "6"):
            # A kernel without IPv6 has only one of the two.
            with contextlib.suppress(OSError), open(f"{proc}/net/{table}", encoding="ascii") as stream:
                found += parse_listeners(stream.read(), protocol)
    return found


def parse_listeners(text: str, protocol: str) -> list[Listener]:
    """Read the listening sockets out of /proc/net/{tcp,tcp6,udp,udp6}."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENING[protocol]:
            address, port = fields[1].split(":")
            found.append(Listener(protocol, parse_address(address), int(port, 16), fields[9], int(fields[7])))
    return found


def parse_address(text: str) -> str:
    """Decode the kernel's hexadecimal address, which is in words of the machine's own byte order."""
    packed = b"".join(struct.pack("=I", int(text[start : start + WORD], 16)) for start in range(0, len(text), WORD))
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


def clashes(listener: Listener, address: str, port: int) -> bool:
    """Tell whether a socket stands in the way of one at `address`: the same address, or a wildcard at either side."""
    if listener.port != port:
        return False
    theirs, ours = ipaddress.ip_address(listener.address), ipaddress.ip_address(address)
    if theirs.is_unspecified:
        # A wildcard of IPv6 mostly takes IPv4 as well.
        return theirs.version == 6 or ours.version == 4 or ours.is_unspecified
    return theirs == ours or (ours.is_unspecified and (ours.version == 6 or theirs.version == 4))


def is_free(address: str, port: int) -> bool:
    """Tell whether a socket could be had there, also where no process is to be seen. An address that the host has not got is nobody's."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        try:
            info = socket.getaddrinfo(address, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
            sock = socket.socket(info[0], kind)
        except OSError:
            continue
        with sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(info[4])
                if kind == socket.SOCK_STREAM:
                    sock.listen(1)
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    return False
    return True


def holders(inodes: typing.Iterable[str], proc: str = "/proc") -> list[Holder]:
    """List the processes that have one of these sockets, the lowest number first.

    In a container even root may not look into the processes of others: a socket of which no process is found may still have an owner.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found = []
    if not wanted:
        return found
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        held = frozenset(wanted[link] for link in _open_files(f"{proc}/{pid}/fd") if link in wanted)
        if held:
            # A process that ends while we look has no name any more, and is left out.
            with contextlib.suppress(OSError):
                unit = _service(f"{proc}/{pid}/cgroup")
                found.append(Holder(pid, _read(f"{proc}/{pid}/comm").strip(), unit, held))
    return found


def _open_files(folder: str) -> set[str]:
    """Read what a process has open; what it closes while we look is left out."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"{folder}/{name}"))
    return found


def _service(path: str) -> str:
    """Read from its control group which service a process is of; empty when it is of none."""
    try:
        unit = re.search(r"/([^/\n]+\.service)(?:/|$)", _read(path), re.MULTILINE)
    except OSError:
        # A kernel without control groups.
        return ""
    return unit.group(1) if unit else ""


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()
