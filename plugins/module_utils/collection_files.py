# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which files of the collection make a build of it, and the one digest that tells two builds apart.

The digest is over names and contents alone, so that a clone, an installed collection and the copy on a node have the same.
"""

from __future__ import annotations

import hashlib
import os

FOLDERS = ("meta", "playbooks", "plugins", "roles")
FILES = ("LICENSE",)
# What Python, Ansible or an editor leaves beside the files.
LEFT_OVER = (".pyc", ".retry", "~")
# Enough to name a build.
NAME_CHARS = 16


def names(root: str) -> list[str]:
    """List the files of the collection in `root`, relative to it and sorted."""
    found = [name for name in FILES if os.path.isfile(os.path.join(root, name))]
    for top in FOLDERS:
        for folder, folders, files in os.walk(os.path.join(root, top)):
            folders[:] = [name for name in folders if _counts(name)]
            found += [os.path.relpath(os.path.join(folder, name), root) for name in files if _counts(name)]
    return sorted(found)


def _counts(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(LEFT_OVER) and name != "__pycache__"


def digest(root: str) -> str:
    """Compute the SHA-256 over names and contents; empty when there is no collection in `root`."""
    seen = hashlib.sha256()
    found = names(root)
    for name in found:
        with open(os.path.join(root, name), "rb") as stream:
            seen.update(name.encode() + b"\0" + hashlib.sha256(stream.read()).digest())
    return seen.hexdigest() if found else ""
