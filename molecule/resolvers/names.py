# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A test double of a name server: it knows the names that it is given, and prints every name that it is asked for.

    names.py ADDRESS PORT UPSTREAM NAME=VALUE ...

UPSTREAM is asked for all other names; with "-" they do not exist. A VALUE is an IPv4 address, or else a name (PTR).
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

A, PTR = 1, 12


def labels(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def question(packet: bytes) -> tuple[str, int, int]:
    """Return the name asked for, its type, and where the question ends."""
    found, at = [], 12
    while packet[at]:
        found.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii", "replace").lower())
        at += packet[at] + 1
    return ".".join(found), struct.unpack("!H", packet[at + 1 : at + 3])[0], at + 5


def answer(packet: bytes, known: dict[str, str]) -> bytes:
    name, qtype, end = question(packet)
    value = known.get(name)
    record = b""
    if value is not None:
        try:
            kind, data = A, socket.inet_aton(value)
        except OSError:
            kind, data = PTR, labels(value)
        if kind == qtype:
            record = b"\xc0\x0c" + struct.pack("!2HIH", kind, 1, 0, len(data)) + data
    flags = 0x8580 | (0 if value is not None else 3)
    return packet[:2] + struct.pack("!5H", flags, 1, 1 if record else 0, 0, 0) + packet[12:end] + record


def ask(packet: bytes, upstream: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(4)
        sock.sendto(packet, (upstream, 53))
        return sock.recv(4096)


def serve(sock: socket.socket, packet: bytes, client: tuple, upstream: str, known: dict[str, str]) -> None:
    name = question(packet)[0]
    print(name, flush=True)
    try:
        sock.sendto(answer(packet, known) if name in known or upstream == "-" else ask(packet, upstream), client)
    except OSError as error:
        print(f"no answer for {name}: {error}", file=sys.stderr)


def main() -> None:
    address, port, upstream, *names = sys.argv[1:]
    known = dict(name.split("=") for name in names)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, int(port)))
    while True:
        packet, client = sock.recvfrom(4096)
        threading.Thread(target=serve, args=(sock, packet, client, upstream, known), daemon=True).start()


if __name__ == "__main__":
    main()
