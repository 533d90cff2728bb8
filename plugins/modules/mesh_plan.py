#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mesh_plan
short_description: Plan what a run has to do on which node
version_added: "1.0.0"
description:
  - Compares what M(vdloo.mesh.node_info) found on the nodes with what the inventory asks for, and says which roles have something to
    do on which node, and why. It works on the controller and makes no remote call.
  - It merges the registries, chooses the Consul servers and the links of the overlay, and renders what the roles manage.
  - Two meshes in one inventory, or two nodes with one key, are an error.
  - It agrees on the settings of the mesh. What an inventory of the operator's own sets replaces them. With the inventory plugin, the newest that
    a node keeps count, and over them what the user set beside the inventory.
  - Variables with vaulted values do not travel, which is a warning. Where they are missing, the role that needs them is left alone.
  - Use it with C(run_once).
options:
  look:
    description: Name of the variable under which M(vdloo.mesh.node_info) was registered on each host.
    type: str
    required: true
  final:
    description:
      - Plan the whole also if there are new nodes, which have no keys yet. Without it, such a plan ends with what these need first.
      - In check mode it is on.
    type: bool
    default: false
  settings:
    description: The settings on which an earlier plan of the same run agreed, its RV(settings). By default they are agreed on now.
    type: dict
  joining:
    description: Names of hosts that are to be members of the mesh, also if they have left it. Any other host that has left is left alone.
    type: list
    elements: str
    default: []
  leaving:
    description:
      - Names of nodes that are to leave the mesh. The plan is then the first half of a departure. RV(registry) says that they are no members any more, and
        RV(promotions) who has to vote first. The next plan takes their links away.
      - It fails when they cannot leave now, for one as the others would have no quorum.
    type: list
    elements: str
    default: []
  leaving_state:
    description: What the registry is to say of O(leaving). A node that is V(revoked) is not waited for, and never comes back under its name.
    type: str
    choices: [left, revoked]
    default: left
  leaving_gone:
    description: Whether the nodes of O(leaving) never come back, so that they are not waited for.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: The module only plans.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Look at each node
  vdloo.mesh.node_info:
  register: look

- name: Plan
  vdloo.mesh.mesh_plan:
    look: look
  run_once: true
  register: plan

- name: Show the plan
  ansible.builtin.debug:
    var: plan.lines
"""

RETURN = r"""
lines:
  description: The plan in words, a line for each thing that is not as it should be. Empty when there is nothing to do.
  type: list
  elements: str
  returned: success
  sample: ["vps1: h2o: /etc/h2o/mesh.conf differs"]
collection:
  description: The SHA-256 of the build of this collection that runs, which the nodes are to have.
  type: str
  returned: success
registry:
  description: The registry as it should be on every node, node records by name.
  type: dict
  returned: success
settings:
  description: The settings of the mesh as they should be kept on every node; empty while nothing is set.
  type: dict
  returned: success
servers:
  description: Names of the nodes that are to be Consul servers.
  type: list
  elements: str
  returned: success
promotions:
  description: Names of the nodes that are to become Consul servers.
  type: list
  elements: str
  returned: success
keeper:
  description: Name of a node that stays and sees a leader of Consul; empty when none does.
  type: str
  returned: success
seeds:
  description: Names of the nodes that start the Consul of a new mesh together.
  type: list
  elements: str
  returned: success
new:
  description: Names of the nodes that have no keys or no secrets of the mesh yet.
  type: list
  elements: str
  returned: success
changing:
  description: Names of the nodes on which a role has something to do.
  type: list
  elements: str
  returned: success
rollout:
  description: Whether the settings are new, so that they come to the nodes in batches. What nodes keep already is repaired on all of them at once.
  type: bool
  returned: success
unkept:
  description: Whether no node keeps the settings yet, so that a run of another machine would undo them.
  type: bool
  returned: success
batches:
  description: Names of the nodes on which a role has something to do, in the order in which they get their turn. One batch but for a rollout.
  type: list
  elements: list
  returned: success
  sample: [[pi], [vps2], [vps1, vps3]]
concerned:
  description: Names of the nodes for which the settings say something else than those that the mesh keeps, those that the run does not touch among them.
  type: list
  elements: str
  returned: success
trying:
  description: Names of the nodes on which the new settings are tried, so that they are verified. Those that are new, or only repaired, are not among them.
  type: list
  elements: str
  returned: success
settings_digest:
  description: Digest of the values of the settings.
  type: str
  returned: success
by:
  description: Name of the machine that plans.
  type: str
  returned: success
whole:
  description: Whether the tags of the run leave out no part of a role.
  type: bool
  returned: success
left_out:
  description: Names of the roles that have something to do and that the tags of the run leave out.
  type: list
  elements: str
  returned: success
groups:
  description:
    - Pairs of a node and a group that it belongs to in the rest of the run, for M(ansible.builtin.add_host). Empty when there is nothing to do.
    - C(drift_registry) and C(drift_settings) have the nodes on which that record is to be put right. C(plan_batch_<number>) has the nodes of that batch, and
      C(plan_witness_<number>) one that is not of it. C(plan_prepare) has those that need keys, with one that can hand out the
      secrets; C(plan_new) those without keys, after which the plan has to be made again;
      C(plan_settings) those for which other variables count than those of the inventory;
      C(plan_tell) those that tell the passwords of links that may change; C(plan_publish) all, when the copy of the registry or of the settings in Consul
      is out of date.
  type: list
  elements: list
  returned: success
  sample: [[vps1, plan_batch_1], [vps1, plan_publish]]
hosts:
  description:
    - For each host its C(drift) (reasons by role), and what its roles are given.
    - C(frozen) are the roles that the run leaves alone there, only where there are any.
    - C(settings) are the variables that the host has to be told, C(logins) the options of M(vdloo.mesh.authorized_nodes); each only where something differs.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "look": {"type": "str", "required": True},
            "final": {"type": "bool", "default": False},
            "settings": {"type": "dict"},
            "joining": {"type": "list", "elements": "str", "default": []},
            "leaving": {"type": "list", "elements": "str", "default": []},
            "leaving_state": {"type": "str", "choices": ["left", "revoked"], "default": "left"},
            "leaving_gone": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="vdloo.mesh.mesh_plan works on the controller only: its action plugin is missing")


if __name__ == "__main__":
    main()
