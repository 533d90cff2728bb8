#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_info
short_description: Look at a node once, for all that a plan needs
version_added: "1.0.0"
description:
  - Returns in one remote call what a node is, what it knows of its mesh, and what its daemons and the files of the roles are like.
  - It reads only, but for a compiled copy of its own code, which it keeps in C(/root/.ansible).
  - A daemon that is missing, that hangs or that answers nonsense is a value of the answer (RV(consul.problem) and the like) and not a failure.
  - No secret is among the answers. Passwords are told as digests.
options:
  timeout:
    description: Seconds after which a part that has not answered is given up.
    type: float
    default: 6
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
- name: Look at each node
  vdloo.mesh.node_info:
  register: look

- name: Say which nodes have lost Consul
  ansible.builtin.debug:
    msg: "{{ look.consul.problem }}"
  when: look.consul.problem | length > 0
"""

RETURN = r"""
system:
  description: The machine.
  type: dict
  returned: always
  contains:
    os:
      description: C(id), C(like) and C(version) as in os-release(5).
      type: dict
    kernel:
      description: Release of the kernel.
      type: str
    init:
      description: Name of the first process, such as C(systemd).
      type: str
    package_manager:
      description: The package manager's program; empty when none is known.
      type: str
    python:
      description: C(path) and C(version) of the Python that runs the modules.
      type: dict
    tun:
      description: Whether there is a TUN device.
      type: bool
    ipv6:
      description: Whether new interfaces and the loopback interface have IPv6.
      type: bool
    iproute:
      description: Whether C(ip) is installed.
      type: bool
    arch:
      description: The machine's architecture, as C(uname -m) says it.
      type: str
    ssh_user:
      description: The user that Ansible logged in as; empty when it did not come by SSH.
      type: str
    ssh_port:
      description: The port that sshd took the connection on; 0 when Ansible did not come by SSH or sudo hides it.
      type: int
    ssh_host_key:
      description: The machine's public SSH host key, type and key; empty when it has none.
      type: str
    ssh_key:
      description: The public SSH key with which the node logs in at others, type and key; empty when it has none.
      type: str
    authorized_user:
      description: The user in the node's record, as whom other nodes log in. Before there is a record, the one that Ansible logged in as, or root.
      type: str
    authorized:
      description: The public SSH keys of nodes that may log in as that user, by name. Empty for a name whose line was changed.
      type: dict
mesh:
  description: What the node knows of its mesh.
  type: dict
  returned: always
  contains:
    generation:
      description: Tells this mesh from every other; empty when the node belongs to none.
      type: str
    seeds:
      description: Names of the nodes that started the mesh's Consul together.
      type: list
      elements: str
    registry:
      description: The registry that the node keeps, node records by name.
      type: dict
    settings:
      description: What the operator set, as the node keeps it; empty when it knows of nothing.
      type: dict
    rollout:
      description:
        - The mark of settings that are being tried on the node, until all nodes have them; empty without one.
        - C(by) which machine, C(values) the digest of their values, C(age) in seconds, and C(stopped) why that was stopped, empty while it goes on.
      type: dict
    problem:
      description: What could not be read, and what to do; empty when all could.
      type: str
cjdns:
  description: The overlay on this node.
  type: dict
  returned: always
  contains:
    public_key:
      description: The node's public key; empty without an identity.
      type: str
    address:
      description: The node's overlay address; empty without an identity.
      type: str
    config:
      description: The configuration without its secrets; passwords are digests.
      type: dict
    derived:
      description: Digests of the passwords that this node gives to those who dial it, by their public keys.
      type: dict
    pending:
      description: What the running daemon lacks of its configuration, in words.
      type: list
      elements: str
    established:
      description: Public keys of the peers with which the running daemon has a live link.
      type: list
      elements: str
    problem:
      description: Why the identity or the configuration cannot be used; empty when they can.
      type: str
consul:
  description: Consul, as the agent on this node sees it.
  type: dict
  returned: always
  contains:
    bootstrapped:
      description: Name of the datacenter in which this node has seen a leader; empty when it never has.
      type: str
    leader:
      description: Address of the leader; empty when there is none.
      type: str
    members:
      description: C(name), C(address), C(alive) and C(server) of each member that gossip knows.
      type: list
      elements: dict
    raft:
      description: C(name), C(address), C(voter) and C(leader) of each raft peer; empty where nobody knows them.
      type: list
      elements: dict
    servers:
      description: Whether autopilot finds each server C(healthy), and C(since) when that is so; by name.
      type: dict
    tolerance:
      description: Number of voters that may be lost.
      type: int
    registry:
      description: Digests of the node records in the key/value store, by name.
      type: dict
    settings:
      description: Digest of the settings in the key/value store; empty when there are none.
      type: str
    converged:
      description: When each node was last brought to where it should be, UTC, by name.
      type: dict
    problem:
      description: Why the agent could not be asked; empty when it could.
      type: str
resolver:
  description: C(settings), C(handed_over), C(manager) and C(problem) of the host's own resolver, and whether dnsmasq C(answers).
  type: dict
  returned: always
manifests:
  description: For each role that manages something here, what it manages and how that is now, the versions of the daemons' programs among it.
    See M(vdloo.mesh.manifest).
  type: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import kept_code


def main() -> None:
    module = AnsibleModule(argument_spec={"timeout": {"type": "float", "default": 6.0}}, supports_check_mode=True)
    kept_code.use()
    # Not before: most of what a look costs would be the compiling of this.
    from ansible_collections.vdloo.mesh.plugins.module_utils import look

    module.exit_json(changed=False, **look.look(module.params["timeout"]))


if __name__ == "__main__":
    main()
