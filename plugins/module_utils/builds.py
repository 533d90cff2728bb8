# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The builds of this collection on a node: one folder each, named after its digest, with a note of it that is written last."""

from __future__ import annotations

import json
import os

from ansible_collections.vdloo.mesh.plugins.module_utils import collection_files, files, on_disk, versioned_folder

DIRECTORY = "/opt/vdloo-mesh/collection"
# Where Ansible looks for the collection below the folder of a build.
INSIDE = "ansible_collections/vdloo/mesh"
NOTE = "build.json"


def name(sha256: str) -> str:
    return sha256[: collection_files.NAME_CHARS]


def note(folder: str, sha256: str) -> None:
    """Mark a build as whole."""
    files.write(os.path.join(folder, NOTE), (json.dumps({"sha256": sha256}) + "\n").encode(), 0o644)


def sound(folder: str) -> str:
    """Tell the digest of a build that is whole and as it was made; empty for any other, and where there is none."""
    try:
        noted = str((on_disk.read_object(os.path.join(folder, NOTE)) or {}).get("sha256", ""))
    except ValueError:
        return ""
    return noted if noted and collection_files.digest(os.path.join(folder, INSIDE)) == noted else ""


def current(base: str) -> str:
    """Tell the digest of the build in use; empty when none is, or it was edited."""
    version = versioned_folder.current(base)
    return sound(os.path.join(base, version)) if version else ""
