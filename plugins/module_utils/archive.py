# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remove files and directories once a whole archive of them is safe on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tarfile
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import files

CHUNK = 1 << 20
# What must be left on the disk beside the archive, which is as long as its content at worst.
SPARE_BYTES = 64 * 1024 * 1024


class ArchiveError(Exception):
    """Why nothing was removed, and what to do."""


def members(paths: typing.Iterable[str]) -> list[str]:
    """All that is at these paths and below them, each directory before its content; links are not followed, sockets and the like are left out."""
    found: list[str] = []
    tops: list[str] = []
    for path in sorted(set(paths)):
        if not os.path.lexists(path) or any(path.startswith(top + "/") for top in tops):
            continue
        tops.append(path)
        found.append(path)
        if os.path.isdir(path) and not os.path.islink(path):
            for folder, folders, names in os.walk(path):
                found += sorted(os.path.join(folder, name) for name in (*folders, *names))
    return [path for path in found if _is_kept(path)]


def _is_kept(path: str) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def save(archive: str, found: list[str]) -> None:
    """Write the archive, for root alone, and read it back before it gets its name. Raises ArchiveError."""
    folder = os.path.dirname(archive)
    staged = archive + ".part"
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        size = sum(os.lstat(path).st_size for path in found)
        free = shutil.disk_usage(folder).free
        if free < size + SPARE_BYTES:
            raise ArchiveError(
                f"{folder} has {free >> 20} MB of space, and the archive may take {(size >> 20) + 1} MB with {SPARE_BYTES >> 20} MB to spare: make room there"
            )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        with open(staged, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
            with tarfile.open(fileobj=stream, mode="w:gz") as tar:
                for path in found:
                    tar.add(path, recursive=False)
            stream.flush()
            os.fsync(stream.fileno())
        _prove(staged, found)
        os.rename(staged, archive)
        files.sync_directory(folder)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"{archive} could not be written: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)


def _prove(staged: str, found: list[str]) -> None:
    """Compare what can be read out of the archive with what is on the disk."""
    left = {path.lstrip("/"): path for path in found}
    with tarfile.open(staged, mode="r:gz") as tar:
        for member in tar:
            path = left.pop(member.name, None)
            stream = tar.extractfile(member) if member.isreg() else None
            if path is None or (stream is not None and _digest(stream) != _digest_of(path)):
                raise ArchiveError(f"{member.name} in the archive is not what is on the disk: does something still write there? Run again")
    if left:
        raise ArchiveError(f"the archive lacks {', '.join(sorted(left.values())[:5])}: run again")


def _digest(stream: typing.IO[bytes]) -> str:
    seen = hashlib.sha256()
    while True:
        chunk = stream.read(CHUNK)
        if not chunk:
            return seen.hexdigest()
        seen.update(chunk)


def _digest_of(path: str) -> str:
    with open(path, "rb") as stream:
        return _digest(stream)


def remove(found: list[str], folders: typing.Iterable[str] = ()) -> None:
    """Remove what was archived, the content of a directory before it, and `folders`; a directory that somebody else has filled stays."""
    for path in (*reversed(found), *sorted(folders, reverse=True)):
        with contextlib.suppress(FileNotFoundError):
            if os.path.isdir(path) and not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            else:
                os.unlink(path)
