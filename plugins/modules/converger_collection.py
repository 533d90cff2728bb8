#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: converger_collection
short_description: Put this collection on a node, beside the one that is there, and switch
version_added: "1.0.0"
description:
  - Hands the collection that runs this to the node. A new build lies beside the one in use, is checked file by file, and then the link C(current)
    is moved to it in one step, so that a run that starts meanwhile has the old build or the new one, and nothing between.
  - What was copied half never counts. The build that was in use before stays, older ones go.
options:
  sha256:
    description:
      - Digest of the build that is wanted, over the names and contents of its files.
      - By default that of the collection that runs this. Another one is refused, as it means that the collection was edited meanwhile.
    type: str
    default: ""
  directory:
    description: Where the builds are.
    type: path
    default: /opt/vdloo-mesh/collection
  archive:
    description: The build on the node. Ansible fills this in.
    type: path
attributes:
  check_mode:
    support: full
    description: Nothing is copied.
  diff_mode:
    support: full
    description: Shows where the link leads.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Let the node run this collection by itself
  vdloo.mesh.converger_collection:
"""

RETURN = r"""
sha256:
  description: Digest of the build.
  type: str
  returned: always
  sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
folder:
  description: Folder of the build.
  type: str
  returned: always
  sample: /opt/vdloo-mesh/collection/2c26b46b68ffc68f
removed:
  description: Names of older builds that were removed.
  type: list
  elements: str
  returned: always
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import builds, collection_files, versioned_folder


def place(base: str, wanted: str, archive: str) -> list[str]:
    """Bring the wanted build to its place and let the link lead to it; returns the names of those that went."""

    def judge(folder: str) -> None:
        found = collection_files.digest(os.path.join(folder, builds.INSIDE))
        if found != wanted:
            raise versioned_folder.FolderError(f"the copied collection is {found[:16] or 'empty'} and not {wanted[:16]}: run this again")
        builds.note(folder, wanted)

    name = builds.name(wanted)
    with versioned_folder.locked(base):
        # Another run may have brought it meanwhile.
        if builds.sound(os.path.join(base, name)) != wanted:
            versioned_folder.place(base, name, archive, judge)
        versioned_folder.switch(base, name)
        return versioned_folder.prune(base, name)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sha256": {"type": "str", "default": ""},
            "directory": {"type": "path", "default": builds.DIRECTORY},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    base, wanted = module.params["directory"], module.params["sha256"]
    if not wanted:
        module.fail_json(
            msg="sha256 is empty: it is filled in by the action plugin of this collection, so use the full name vdloo.mesh.converger_collection"
        )
    before = versioned_folder.current(base)
    changed = builds.current(base) != wanted
    removed: list[str] = []
    if changed and not module.check_mode:
        try:
            removed = place(base, wanted, module.params["archive"])
        except (versioned_folder.FolderError, OSError) as error:
            module.fail_json(msg=f"the collection was not put on the node, which keeps the one it has: {error}")
    module.exit_json(
        changed=changed,
        sha256=wanted,
        folder=os.path.join(base, builds.name(wanted)),
        removed=removed,
        diff={
            "before_header": base,
            "after_header": base,
            "before": f"current -> {before}\n" if before else "",
            "after": f"current -> {builds.name(wanted)}\n",
        },
    )


if __name__ == "__main__":
    main()
