# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The systemd unit of the agent."""

from __future__ import annotations

import os
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import systemd

PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID", "NeedDaemonReload", "NRestarts", "Result")
JOURNAL_LINES = 15


def show(run_command: typing.Callable, name: str) -> dict[str, str]:
    """Read the unit's properties; all values are strings, and none is there when systemd does not answer."""
    try:
        return systemd.show([name], PROPERTIES, run_command)[name]
    except systemd.SystemdError:
        return {}


def last_words(run_command: typing.Callable, name: str) -> str:
    """The last lines of the unit's journal, to say why it does not work."""
    rc, out, err = run_command(["journalctl", "--unit", name, "--lines", str(JOURNAL_LINES), "--no-pager", "--output", "cat"])
    return out.strip() if rc == 0 and out.strip() else f"(journalctl shows nothing: {err.strip()})"


def main_uid(properties: dict[str, str]) -> int | None:
    """The user that the unit's process runs as; None when it does not run."""
    pid = int(properties.get("MainPID") or 0)
    try:
        return os.stat(f"/proc/{pid}").st_uid if pid else None
    except FileNotFoundError:
        return None
