# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run at a time on this node."""

from __future__ import annotations

import contextlib
import fcntl
import os
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock


class Busy(Exception):
    """Another run goes on; the message says which."""


@contextlib.contextmanager
def taken(path: str, reason: str) -> typing.Iterator[int]:
    """Hold the node's turn, and yield the descriptor that holds it. Raises Busy, and OSError when the file cannot be written.

    Whoever inherits the descriptor holds the turn, too. Handed to the playbook, it proves to the next run that nothing is left of this
    one, even when this process is killed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            raise Busy(f"this node is at it already: {told or 'a process that has just begun'}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}, begun by {reason} at {clock.now()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
