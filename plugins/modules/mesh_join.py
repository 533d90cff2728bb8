#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mesh_join
short_description: Say whether machines may join the mesh
version_added: "1.0.0"
description:
  - Compares what M(vdloo.mesh.node_info) found on newcomers with what it found on the nodes of the mesh. It works on the controller, makes no
    remote call and changes nothing.
  - A machine of another mesh, a name or a key that is taken, a node that was revoked, and one that could not be looked at are errors, which say what to do.
  - Use it with C(run_once), in a play with the newcomers and the nodes of the mesh.
options:
  look:
    description: Name of the variable under which M(vdloo.mesh.node_info) was registered on each host.
    type: str
    required: true
  targets:
    description: The newcomers, hosts of the play, each with the name that it is to have in the mesh.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is changed.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: See whether it may join
  vdloo.mesh.mesh_join:
    look: mesh_look
    targets:
      root@203.0.113.9: pi
  run_once: true
"""

RETURN = r"""
names:
  description: The names that the newcomers are to have, by O(targets).
  type: dict
  returned: success
already:
  description: Names of those that are members already.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={"look": {"type": "str", "required": True}, "targets": {"type": "dict", "required": True}}, supports_check_mode=True
    )
    module.fail_json(msg="vdloo.mesh.mesh_join works on the controller only: its action plugin is missing")


if __name__ == "__main__":
    main()
