# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a command that must not outlive whoever started it: bound.py PARENT COMMAND ARGUMENT...

A file that needs nothing but Python itself. It becomes the command, which gets SIGTERM when the process PARENT dies, however that dies.
"""

from __future__ import annotations

import os
import signal
import sys

# A number of prctl(2).
SET_PARENT_DEATH_SIGNAL = 1
NOT_FOUND = 127


def main(argv: list[str]) -> int:
    try:
        import ctypes

        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        # A Python without ctypes, or a system without prctl: the turn of the node is held until the command ends by itself.
        pass
    if os.getppid() != int(argv[1]):  # it died before the call
        return 1
    try:
        os.execv(argv[2], argv[2:])
    except OSError as error:
        sys.stderr.write(f"{argv[2]}: {error.strerror}\n")
    return NOT_FOUND


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
