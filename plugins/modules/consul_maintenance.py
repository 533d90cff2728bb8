#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_maintenance
short_description: Let nobody be sent to the services of a node, or let them again
version_added: "1.0.0"
description:
  - Puts the node into the maintenance mode of Consul. Its services are then neither in DNS nor behind h2o, while they go on with what they have.
  - Ends only a maintenance that it has begun itself. One of the operator's stays.
options:
  enabled:
    description: Whether the node is to be in maintenance.
    type: bool
    required: true
  reason:
    description: Why, for whoever looks at the check.
    type: str
    default: vdloo.mesh
  drain:
    description: Seconds to wait after it has begun, so that names that were looked up before are not used any more.
    type: int
    default: 5
  consul_addr:
    description: Address of the Consul agent.
    type: str
    default: http://127.0.0.1:8500
attributes:
  check_mode:
    support: full
    description: Says what would change.
  diff_mode:
    support: none
    description: It is on or off.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Let nobody be sent here
  vdloo.mesh.consul_maintenance:
    enabled: true
    reason: it leaves the mesh
"""

RETURN = r"""
problem:
  description: Why the agent could not be asked; empty when it could. An agent that does not answer serves nobody.
  type: str
  returned: success
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client

CHECK = "_node_maintenance"
MARK = "vdloo-mesh: "
PATH = "/v1/agent/maintenance"


def change(agent: client.Client, enabled: bool, reason: str, check_mode: bool) -> bool:
    """Begin or end the maintenance; tell whether that changed anything. Raises ClientError."""
    checks = agent.get("/v1/agent/checks").value
    found = checks.get(CHECK) if isinstance(checks, dict) else None
    is_ours = isinstance(found, dict) and str(found.get("Notes", "")).startswith(MARK)
    if enabled == bool(found) or (not enabled and not is_ours):
        return False
    if not check_mode:
        agent.put(PATH, b"", {"enable": "true", "reason": MARK + reason} if enabled else {"enable": "false"})
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "enabled": {"type": "bool", "required": True},
            "reason": {"type": "str", "default": "vdloo.mesh"},
            "drain": {"type": "int", "default": 5},
            "consul_addr": {"type": "str", "default": "http://127.0.0.1:8500"},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        changed = change(client.Client(options["consul_addr"]), options["enabled"], options["reason"], module.check_mode)
    except (ValueError, client.ClientError) as error:
        module.exit_json(changed=False, problem=str(error))
    if changed and options["enabled"] and not module.check_mode:
        time.sleep(max(0, options["drain"]))
    module.exit_json(changed=changed, problem="")


if __name__ == "__main__":
    main()
