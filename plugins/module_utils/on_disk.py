# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files, directories and programs as they are on the node, told in plain values. A text that cannot be a path is one of nothing."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import stat
import subprocess

VERSION_S = 3
VERSION = re.compile(r"(?<![A-Za-z0-9.])v?([0-9][A-Za-z0-9.+~_-]*)")


def _account(find, number: int) -> str:
    try:
        return find(number)[0]
    except KeyError:
        return str(number)


def _attributes(status: os.stat_result) -> dict[str, str]:
    return {
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": _account(pwd.getpwuid, status.st_uid),
        "group": _account(grp.getgrgid, status.st_gid),
    }


class Accounts:
    """Numbers of users and groups by name. Names that are not there are collected in `unknown`, for one message about all of them."""

    def __init__(self, lenient: bool = False) -> None:
        """With `lenient` a name may be missing: it has the number -1 then."""
        self.lenient = lenient
        self.unknown: list[str] = []

    def uid(self, name: str) -> int:
        return self._find("the user", pwd.getpwnam, name)

    def gid(self, name: str) -> int:
        return self._find("the group", grp.getgrnam, name)

    def _find(self, kind: str, find, name: str) -> int:
        try:
            # The third field of both: pw_uid and gr_gid.
            return find(name)[2]
        except KeyError:
            if not self.lenient and f"{kind} {name}" not in self.unknown:
                self.unknown.append(f"{kind} {name}")
            return -1


def digest(path: str) -> str:
    """Compute the SHA-256 of a file; empty when it cannot be read."""
    seen = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                seen.update(chunk)
    except OSError:
        return ""
    return seen.hexdigest()


def file(path: str) -> dict[str, str] | None:
    """Tell {"sha256", "mode", "owner", "group"} of a file; None when nothing is there. What is no plain file has an empty digest."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return {"sha256": digest(path) if stat.S_ISREG(status.st_mode) else "", **_attributes(status)}


def directory(path: str) -> dict[str, str] | None:
    """Tell {"mode", "owner", "group"} of a directory, or of the one that a link leads to; None when it is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return _attributes(status) if stat.S_ISDIR(status.st_mode) else None


def program(path: str, recorded: dict | None = None) -> dict:
    """Tell {"sha256", "version", "signature"} of a program: both texts empty when it is not there, the signature being inode, size, mtime and ctime in ns.

    With the signature that is recorded, the rest is what is recorded: some programs have 100 MB, and each takes a while to tell its version.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return {"sha256": "", "version": "", "signature": []}
    if not stat.S_ISREG(status.st_mode):
        return {"sha256": "", "version": "", "signature": []}
    signature = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    if recorded and recorded.get("signature") == signature and recorded.get("sha256") and "version" in recorded:
        return {key: recorded[key] for key in ("sha256", "version", "signature")}
    return {"sha256": digest(path), "version": version(path), "signature": signature}


def version(path: str) -> str:
    """The first number in what a program says to --version; empty when it says none."""
    try:
        said = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=VERSION_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = VERSION.search(said.decode("utf-8", "replace"))
    return found.group(1) if found else ""


def read_object(path: str) -> dict | None:
    """Read a file that holds one JSON object; None when there is none. Raises ValueError with what to do for anything else."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            value = json.load(stream)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object: restore it from another node of the mesh, it was left as it is")
    return value
