# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Folders of which each version lies beside the others, and a link `current` that is moved in one step.

    BASE/<version>/...   complete: it got this name when all of it was there
    BASE/.<version>-*    being made, or left by a run that was killed
    BASE/current         -> <version>

One at a time may change what is under BASE: see `locked`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import typing
import zlib

from ansible_collections.vdloo.mesh.plugins.module_utils import files

LINK = "current"
# Seconds to wait for another run on the same node, which may make a venv on a slow machine.
WAIT_S = 600


class FolderError(Exception):
    """What cannot be unpacked or replaced; the message names the path."""


def locked(base: str):
    """Hold the lock of a base. TimeoutError when another process has it for too long."""
    os.makedirs(base, mode=0o755, exist_ok=True)
    return files.locked(os.path.join(base, ".lock"), WAIT_S)


def current(base: str) -> str:
    """Tell the name of the version that the link leads to; empty when there is none, or it leads to nothing."""
    try:
        name = os.readlink(os.path.join(base, LINK))
    except OSError:
        return ""
    return name if os.path.basename(name) == name and os.path.isdir(os.path.join(base, name)) else ""


def place(base: str, name: str, archive: str, judge: typing.Callable[[str], None]) -> str:
    """Unpack an archive beside the versions, have it judged, and give it its name; return its path.

    `judge` takes the unpacked folder and raises FolderError for one that is not what it should be. A version of that name makes room.
    """
    staged = tempfile.mkdtemp(prefix=f".{name}-", dir=base)
    try:
        os.chmod(staged, 0o755)
        unpack(archive, staged)
        judge(staged)
        path = os.path.join(base, name)
        if os.path.lexists(path):
            os.rename(path, tempfile.mkdtemp(prefix=f".{name}-old-", dir=base))
        os.rename(staged, path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    files.sync_directory(base)
    return path


def unpack(archive: str, folder: str) -> None:
    """Unpack the plain files of a tar archive. All is owned by whoever runs this, and may be read by all."""
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                _unpack_member(opened, member, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise FolderError(f"{archive} is no whole archive ({error}): run this again") from error


def _unpack_member(opened: tarfile.TarFile, member: tarfile.TarInfo, folder: str) -> None:
    parts = member.name.split("/")
    if not member.isreg() or ".." in parts or "" in parts:
        raise FolderError(f"the archive holds {member.name!r}, which is no plain file of its own folder: it was not unpacked")
    path = os.path.join(folder, *parts)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    source = opened.extractfile(member)
    with source, open(path, "wb") as target:
        shutil.copyfileobj(source, target)
        os.fchmod(target.fileno(), 0o644)
        target.flush()
        os.fsync(target.fileno())


def switch(base: str, name: str) -> None:
    """Let the link lead to a version, in one step."""
    # The lock is held, so nobody else has a link of this name.
    staged = os.path.join(base, f".{LINK}-new")
    if os.path.lexists(staged):
        os.unlink(staged)
    os.symlink(name, staged)
    os.replace(staged, os.path.join(base, LINK))
    files.sync_directory(base)


def versions(base: str) -> list[str]:
    """List the versions, the oldest first."""
    try:
        found = [entry for entry in os.scandir(base) if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [entry.name for entry in sorted(found, key=_age)]


def _age(entry: os.DirEntry) -> tuple[float, str]:
    return entry.stat(follow_symlinks=False).st_mtime, entry.name


def prune(base: str, keep: str) -> list[str]:
    """Remove all versions but `keep` and the youngest other one, and what killed runs have left; returns the names of those versions."""
    others = [name for name in versions(base) if name != keep]
    # A run that is under way may still read the one before.
    outdated = others[:-1]
    leftovers = [entry.name for entry in os.scandir(base) if entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)]
    for name in outdated + leftovers:
        shutil.rmtree(os.path.join(base, name), ignore_errors=True)
    return outdated
