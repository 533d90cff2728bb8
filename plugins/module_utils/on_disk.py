# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files, directories and programs as they are on the node, told in plain values."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat


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
    except OSError:
        return None
    return {"sha256": digest(path) if stat.S_ISREG(status.st_mode) else "", **_attributes(status)}


def directory(path: str) -> dict[str, str] | None:
    """Tell {"mode", "owner", "group"} of a directory, or of the one that a link leads to; None when it is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _attributes(status) if stat.S_ISDIR(status.st_mode) else None


def program(path: str, recorded: dict | None = None) -> tuple[str, list[int]]:
    """Tell the SHA-256 of a program, empty when it is not there, and its signature (inode, size, mtime and ctime in ns).

    With the signature that is recorded, the digest is the one that is recorded: some programs have 100 MB.
    """
    try:
        status = os.stat(path)
    except OSError:
        return "", []
    if not stat.S_ISREG(status.st_mode):
        return "", []
    signature = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    known = recorded and recorded.get("signature") == signature and recorded.get("sha256")
    return (known or digest(path)), signature
