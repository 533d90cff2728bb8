# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are there whole or not at all."""

from __future__ import annotations

import glob
import os
import tempfile
import time

# A staged file older than this belongs to a run that was killed.
LEFTOVER_S = 600


def write(path: str, content: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Replace a file atomically. The name of the staged one starts with a dot and has no ending that an agent reads."""
    directory, name = os.path.split(path)
    for leftover in glob.glob(os.path.join(glob.escape(directory), f".{glob.escape(name)}-*")):
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
        os.replace(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
    sync_directory(directory)


def sync_directory(path: str) -> None:
    """Make a rename or removal in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
