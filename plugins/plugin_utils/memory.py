# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was rendered before, kept in a file of the user: rendering is most of the time that a plan takes.

The key is a digest of all inputs, so nothing in it can be out of date. Losing the file costs the time only.
"""

from __future__ import annotations

import json
import os
import time
import typing
from collections.abc import Callable
from pathlib import Path

from ansible_collections.vdloo.mesh.plugins.module_utils import files

FORMAT = 1
KEPT_S = 30 * 24 * 3600
MOST = 20_000


def default_path() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "vdloo-mesh" / "rendered.json"


class Memory:
    """Results by key. A file that cannot be read or written is no memory, and no failure."""

    def __init__(self, path: Path, now: float | None = None) -> None:
        self.path = path
        self.now = int(time.time() if now is None else now)
        self.fresh = False
        self.known: dict[str, dict[str, typing.Any]] = {}
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("known"), dict):
            self.known = {key: entry for key, entry in found["known"].items() if isinstance(entry, dict) and set(entry) == {"at", "value"}}

    def recall(self, key: str | None, make: Callable[[], typing.Any]) -> typing.Any:
        """The value of a key, made where it is not known. Without a key it is made each time."""
        if key is None:
            return make()
        if key not in self.known:
            self.known[key] = {"at": self.now, "value": make()}
            self.fresh = True
        entry = self.known[key]
        if self.now - entry["at"] > KEPT_S / 2:
            entry["at"] = self.now
            self.fresh = True
        return entry["value"]

    def keep(self) -> None:
        """Write the file, if there is anything new; for this user alone."""
        if not self.fresh:
            return
        recent = sorted((item for item in self.known.items() if self.now - item[1]["at"] < KEPT_S), key=lambda item: item[1]["at"])
        content = json.dumps({"format": FORMAT, "known": dict(recent[-MOST:])}).encode()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(str(self.path), content, 0o600)
        except OSError:
            return
