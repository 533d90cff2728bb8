# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import tempfile
import time

# A staged file older than this belongs to a run that was killed.
LEFTOVER_S = 600


def write(path: str, content: bytes, mode: int, uid: int = -1, gid: int = -1) -> None:
    """Replace a file atomically; without uid and gid it belongs to whoever runs this."""
    staged = _stage(path, content, mode, uid, gid)
    try:
        os.replace(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
    sync_directory(os.path.dirname(path))


def write_once(path: str, content: bytes, mode: int) -> bool:
    """Put a complete file in its place unless there is one already; tell whether it was put there.

    Linking a finished file is the one step that can neither overwrite nor leave half a file, so two runs at once end with one file.
    """
    staged = _stage(path, content, mode)
    try:
        os.link(staged, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(staged)
    sync_directory(os.path.dirname(path))
    return True


def _stage(path: str, content: bytes, mode: int, uid: int = -1, gid: int = -1) -> str:
    """Write a file beside its place and return its path. Its name starts with a dot and has no ending that a daemon reads."""
    directory, name = os.path.split(path)
    for leftover in glob.glob(os.path.join(glob.escape(directory), f".{glob.escape(name)}-*")):
        # Another run may put its staged file in place, or remove this leftover, meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - os.lstat(leftover).st_mtime > LEFTOVER_S:
                os.unlink(leftover)
    descriptor, staged = tempfile.mkstemp(prefix=f".{name}-", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(staged)
        raise
    return staged


def sync_directory(path: str) -> None:
    """Make a rename or removal in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: str, wait_s: float):
    """Hold a lock that ends with its process. TimeoutError when another process has it for longer than `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    with open(path, "a+", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    stream.seek(0)
                    raise TimeoutError(f"process {stream.read().strip() or 'unknown'} holds {path} for more than {wait_s:g} s") from None
                time.sleep(0.1)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
