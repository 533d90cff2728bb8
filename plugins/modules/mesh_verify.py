#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mesh_verify
short_description: Verify that a node is well with the settings that it was given
version_added: "1.0.0"
description:
  - Looks at the node with M(vdloo.mesh.node_info), in one remote call, and judges on the controller.
  - It fails when the plan would still have something to do there, or when a service does not run, the overlay has fewer live links than before,
    Consul sees no leader or dnsmasq does not answer.
  - What was so before does not count, as it is the node's own trouble, unless the same settings were stopped on this node before.
  - A daemon takes some seconds to find its place, so use it with C(until).
options:
  look:
    description: Name of the variable under which M(vdloo.mesh.node_info) was registered before the settings were changed.
    type: str
    required: true
  plan:
    description: The plan of the run, as M(vdloo.mesh.mesh_plan) returned it.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: The module only looks.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Verify that the node is well
  vdloo.mesh.mesh_verify:
    look: look
    plan: "{{ plan }}"
  register: verified
  until: verified is not failed
  retries: 20
  delay: 3
"""

RETURN = r"""
problems:
  description: What is wrong with the node and was not before, each with its role. Empty when nothing is.
  type: list
  elements: str
  returned: always
  sample: ["h2o: h2o.service does not run"]
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={"look": {"type": "str", "required": True}, "plan": {"type": "dict", "required": True}}, supports_check_mode=True
    )
    module.fail_json(msg="vdloo.mesh.mesh_verify works with its action plugin only, which is missing")


if __name__ == "__main__":
    main()
