# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lines of an authorized_keys file that let the nodes of a mesh in, over the overlay only.

A line is of the mesh when its last word is vdloo-mesh:NAME and it is no comment. All other lines stay as they are, byte for byte.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat

from ansible_collections.vdloo.mesh.plugins.module_utils import files

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


@contextlib.contextmanager
def acting_as(account: pwd.struct_passwd):
    """Have the rights of a user, where this process may take them on."""
    if os.geteuid() != 0 or account.pw_uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def replace(path: str, content: bytes) -> None:
    """Write the file with the mode that it has; a new one, and its directory, are for the user alone."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o700)
    # A link is followed: the user's file may lie elsewhere.
    path = os.path.realpath(path)
    mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o600
    files.write(path, content, mode)


def put(account: pwd.struct_passwd, keys: dict[str, str], check_mode: bool) -> tuple[bytes, bytes]:
    """Put the keys into a user's file; return its content before and after. Raises OSError and ValueError."""
    path = path_of(account.pw_dir)
    with acting_as(account):
        before = read(path)
        after = changed(before, keys)
        if after != before and not check_mode:
            replace(path, after)
    return before, after


def put_out(seen: set[str], check_mode: bool) -> tuple[dict[str, tuple[bytes, bytes]], list[str]]:
    """Take the lines of the mesh out of the files of all users but for the paths that were `seen`.

    Returns the content before and after by path, and in words which files may still have such lines, and why.
    """
    found, problems = {}, []
    for account in pwd.getpwall():
        path = path_of(account.pw_dir)
        if os.path.realpath(path) in seen:
            continue
        seen.add(os.path.realpath(path))
        try:
            found[path] = put(account, {}, check_mode)
        except (NotADirectoryError, PermissionError):
            # A home that is none, or that not even its owner can enter.
            continue
        except (OSError, ValueError) as error:
            problems.append(f"{path} may still have lines of the mesh ({error})")
    return found, problems
