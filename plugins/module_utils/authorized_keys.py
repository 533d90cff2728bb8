# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lines of an authorized_keys file that let the nodes of a mesh in, over the overlay only.

A line is of the mesh when its last word is vdloo-mesh:NAME and it is no comment. All other lines stay as they are, byte for byte.
"""

from __future__ import annotations

import os
import pwd
import re
import stat

# Every overlay address, and no other, is one of these.
OVERLAY = "fc00::/8"
OPTIONS = f'from="{OVERLAY}",restrict'
MARK = "vdloo-mesh:"
KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{16,256}={0,2}")
OURS = re.compile(rb"[ \t]*[^#\s][^\n]*[ \t]" + MARK.encode() + rb"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)[ \t\r]*\n?")
LINE = re.compile(rb"[^\n]*\n|[^\n]+")
# What somebody else keeps there is not read to the end of memory.
MAX_BYTES = 4 * 1024 * 1024


def line(name: str, key: str) -> bytes:
    """The line that lets a node in. `key` is "ssh-ed25519 AAAA..."."""
    return f"{OPTIONS} {key} {MARK}{name}\n".encode()


def told(content: bytes) -> dict[str, str]:
    """The keys of the mesh in a file, {name: key}; "" for a name whose line is not exactly what it should be, or is there twice."""
    found: dict[str, str] = {}
    for name, text in _ours(content):
        key = " ".join(text.decode("utf-8", "replace").split()[1:3])
        exact = KEY.fullmatch(key) is not None and text.rstrip(b"\n") + b"\n" == line(name, key)
        found[name] = key if exact and name not in found else ""
    return found


def changed(content: bytes, keys: dict[str, str]) -> bytes:
    """The file with exactly these keys of the mesh. Lines that are right keep their place, those that are missing come last."""
    if told(content) == keys:
        return content
    missing = dict(keys)
    kept = []
    for text in LINE.findall(content):
        match = OURS.fullmatch(text)
        if match is None:
            kept.append(text)
            continue
        name = match.group(1).decode()
        if name in missing and text.rstrip(b"\n") + b"\n" == line(name, missing[name]):
            kept.append(line(name, missing.pop(name)))
    if missing and kept and not kept[-1].endswith(b"\n"):
        kept.append(b"\n")
    return b"".join(kept) + b"".join(line(name, key) for name, key in sorted(missing.items()))


def _ours(content: bytes) -> list[tuple[str, bytes]]:
    matches = map(OURS.fullmatch, LINE.findall(content))
    return [(match.group(1).decode(), match.group(0)) for match in matches if match is not None]


def path_of(home: str) -> str:
    return os.path.join(home, ".ssh", "authorized_keys")


def read(path: str) -> bytes:
    """The content of a file, empty without one. Raises OSError; ValueError for what is no plain file or far too long."""
    try:
        # Not waiting for a writer, should somebody have put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a plain file")
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is longer than {MAX_BYTES} bytes")
    return content


def let_in(user: str) -> dict[str, str]:
    """The keys of the mesh that may log in as a user, {name: key}; none for a user or a file that is not there or cannot be read."""
    try:
        return told(read(path_of(pwd.getpwnam(user).pw_dir)))
    except (KeyError, OSError, ValueError):
        return {}
