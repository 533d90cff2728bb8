# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""For how long this node has waited for the lock, over several runs."""

from __future__ import annotations

import json

from ansible_collections.vdloo.mesh.plugins.module_utils import files, on_disk
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def seconds(path: str, obstacle: str) -> float:
    """Note that the lock could not be had because of `obstacle`, and return for how many seconds this has been so without a break.

    Another obstacle begins anew: when one session after another has the lock, others do converge the mesh. So does a boot, as nothing
    else tells time reliably on a machine that has no clock of its own.
    """
    now, boot = clock.seconds(), _boot()
    known = _read(path)
    since = known.get("since")
    if known.get("obstacle") == obstacle and known.get("boot") == boot and isinstance(since, (int, float)) and 0 <= since <= now:
        return now - since
    files.write(path, json.dumps({"obstacle": obstacle, "boot": boot, "since": now}).encode(), 0o600)
    return 0.0


def over(path: str) -> None:
    """Note that there is nothing to wait for any more."""
    if _read(path):
        files.write(path, b"{}", 0o600)


def _read(path: str) -> dict:
    try:
        return on_disk.read_object(path) or {}
    except ValueError:
        return {}


def _boot() -> str:
    try:
        with open(BOOT_ID, encoding="ascii") as stream:
            return stream.read().strip()
    except (OSError, ValueError):
        return ""
