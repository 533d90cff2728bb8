# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ends a process with all that it has started, also what has left its process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

POLL_S = 0.1


def end(process: subprocess.Popen, grace_s: float) -> None:
    """Ask the process group of `process` to end, and after `grace_s` seconds kill what is left. The process must lead its group.

    It may have ended, but must not have been waited for: until then its number is that of its group and of nothing else.
    """
    family = descendants(process.pid)
    deadline = time.monotonic() + grace_s
    _tell(process, signal.SIGTERM)
    while time.monotonic() < deadline and not (has_ended(process) and all(_start(pid) != start for pid, start in family.items())):
        time.sleep(POLL_S)
    family.update(descendants(process.pid))
    _tell(process, signal.SIGKILL)
    for pid, start in family.items():
        # The number may be another process's by now.
        if _start(pid) == start:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def has_ended(process: subprocess.Popen) -> bool:
    """Whether a process has ended, without waiting for it."""
    return process.returncode is not None or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _tell(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def descendants(ancestor: int) -> dict[int, str]:
    """All processes that this one has started, directly or not: {process id: when it was started, in the kernel's words}."""
    table = {int(name): stat for name in os.listdir("/proc") if name.isdecimal() for stat in [_stat(int(name))] if stat}
    children: dict[int, list[int]] = {}
    for pid, stat in table.items():
        children.setdefault(int(stat[1]), []).append(pid)
    found, front = [], [ancestor]
    while front:
        front = [child for pid in front for child in children.get(pid, [])]
        found += front
    return {pid: table[pid][19] for pid in found}


def _start(pid: int) -> str:
    """When a process was started; empty when it has ended."""
    stat = _stat(pid)
    return stat[19] if stat and stat[0] not in "ZX" else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent and so on; empty when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The name may hold spaces and brackets itself.
            return stream.read().rpartition(") ")[2].split()
    except OSError:
        return []
