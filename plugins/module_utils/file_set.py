# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files and directories that are changed together: all of them, or none.

A run that is killed between two changes leaves some of them made. The next run compares each with what is wanted, so it makes the rest.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import stat
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import files

ABSENT, FILE, DIRECTORY = "absent", "file", "directory"


class FileSetError(Exception):
    """A change that cannot be made; the message names the path."""


class Version(typing.NamedTuple):
    """What is, or should be, at one path. The content is that of a file."""

    kind: str = ABSENT
    content: bytes = b""
    mode: int = 0
    uid: int = -1
    gid: int = -1


class Change(typing.NamedTuple):
    path: str
    before: Version
    after: Version
    secret: bool = False

    @property
    def of_content(self) -> bool:
        return (self.before.kind, self.before.content) != (self.after.kind, self.after.content)


def find_file(path: str) -> Version:
    """Read the file at a path. A link or a directory in its place is refused."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Version()
    if stat.S_ISLNK(status.st_mode):
        raise FileSetError(f"{path} is a link to {os.readlink(path)}, which somebody else made: remove the link to have the file managed")
    if not stat.S_ISREG(status.st_mode):
        raise FileSetError(f"{path} is there, but is no file: move it away")
    with open(path, "rb") as stream:
        return Version(FILE, stream.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def find_directory(path: str) -> Version:
    """Look at the directory at a path, or the one that a link there leads to."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise FileSetError(f"{path} is a link to {os.readlink(path)}, which is not there: mend or remove the link") from None
        return Version()
    if not stat.S_ISDIR(status.st_mode):
        raise FileSetError(f"{path} is there, but is no directory: move it away")
    return Version(DIRECTORY, b"", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def put(path: str, version: Version) -> None:
    """Bring a path to a version, whatever is there now."""
    if version.kind == DIRECTORY:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        os.chown(path, version.uid, version.gid)
        os.chmod(path, version.mode)
    elif version.kind == ABSENT:
        if os.path.isdir(path):
            _remove_directory(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        files.sync_directory(os.path.dirname(path))
    elif find_file(path)[:2] == version[:2]:
        os.chown(path, version.uid, version.gid)
        os.chmod(path, version.mode)
    else:
        files.write(path, version.content, version.mode, version.uid, version.gid)


def _remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        # Somebody else has filled it meanwhile, so it stays.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def make(changes: list[Change]) -> None:
    """Make all changes in their order. When one fails, all that came before it are undone."""
    done = []
    try:
        for change in changes:
            done.append(change)
            put(change.path, change.after)
    except (OSError, FileSetError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        lost = undo(done)
        outcome = f"not all could be put back: {'; '.join(lost)}" if lost else "what was changed before it was put back"
        raise FileSetError(f"{done[-1].path} could not be changed ({reason}); {outcome}") from error
    except BaseException:
        undo(done)
        raise


def undo(changes: list[Change]) -> list[str]:
    """Put back what was there before, the last change first; returns what failed, as text."""
    failed = []
    for change in reversed(changes):
        try:
            put(change.path, change.before)
        except (OSError, FileSetError) as error:
            failed.append(f"{change.path}: {error}")
    return failed


def merge(older: list[Change], newer: list[Change]) -> list[Change]:
    """Join two rounds of changes to one: from what was there before the first to what is there after the second."""
    later = {change.path: change for change in newer}
    joined = [change._replace(after=later[change.path].after) if change.path in later else change for change in older]
    known = {change.path for change in older}
    return joined + [change for change in newer if change.path not in known]


def save(path: str, changes: list[Change]) -> None:
    """Keep what was there before the changes, secrets included, in a file that only its owner reads."""
    kept = [
        {
            "path": change.path,
            "secret": change.secret,
            "before": {**change.before._asdict(), "content": base64.b64encode(change.before.content).decode()},
        }
        for change in changes
    ]
    files.write(path, json.dumps(kept).encode(), 0o600)


def load(path: str) -> list[Change]:
    """Read what `save` kept: changes whose `after` is not known. Nothing when there is nothing that can be used."""
    try:
        with open(path, encoding="utf-8") as stream:
            kept = json.load(stream)
        return [
            Change(
                entry["path"],
                Version(**{**entry["before"], "content": base64.b64decode(entry["before"]["content"])}),
                Version(),
                entry["secret"],
            )
            for entry in kept
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def reverse(changes: list[Change]) -> list[Change]:
    """Plan the way back, the last change first: from what is there now to what was there before the changes."""
    way_back = []
    for change in reversed(changes):
        now = find_directory(change.path) if os.path.isdir(change.path) else find_file(change.path)
        if now != change.before:
            way_back.append(Change(change.path, now, change.before, change.secret))
    return way_back
