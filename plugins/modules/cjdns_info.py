#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cjdns_info
short_description: Tell the state of cjdns on a node
version_added: "1.0.0"
description:
  - Asks the running daemon for itself, its links, its interfaces and the users that may dial it.
  - The module fails when the daemon does not answer.
extends_documentation_fragment:
  - vdloo.mesh.cjdns_admin
attributes:
  check_mode:
    support: full
    description: The module changes nothing.
  diff_mode:
    support: none
    description: The module changes nothing.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Look at the links of a node
  vdloo.mesh.cjdns_info:
  register: cjdns

- name: Every node has a living link
  ansible.builtin.assert:
    that: cjdns.peers_up > 0
    fail_msg: "No link of {{ inventory_hostname }} lives: {{ cjdns.peers | map(attribute='state') | join(', ') }}"
"""

RETURN = r"""
node:
  description: The daemon itself.
  type: dict
  returned: success
  contains:
    address:
      description: Overlay address.
      type: str
    public_key:
      description: Public key.
      type: str
    version:
      description: Version of the protocol it speaks.
      type: int
  sample:
    address: fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1
    public_key: f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k
    version: 22
peers:
  description: The links, sorted by public key. A peer has two of them when both sides dial.
  type: list
  elements: dict
  returned: success
  contains:
    public_key:
      description: Public key of the peer.
      type: str
    address:
      description: Overlay address of the peer.
      type: str
    endpoint:
      description: Where the peer is on the network below, as C(IP:PORT); empty when the daemon is too old to tell.
      type: str
    state:
      description: State of the link, in the words of cjdns.
      type: str
      sample: ESTABLISHED
    live:
      description: Whether the link is established and was heard of lately.
      type: bool
    user:
      description: Name of a peer that is dialled, or the user as which an incoming one dialled; empty when there is none.
      type: str
    incoming:
      description: Whether the peer dialled.
      type: bool
    silent_ms:
      description: Milliseconds since the peer was last heard of. cjdns asks for a sign of life after three seconds.
      type: int
    version:
      description: Version of the protocol that the peer speaks; 0 when it was never heard of.
      type: int
    label:
      description: Switch label of the link.
      type: str
    interface:
      description: Number of the interface that the link runs over; -1 when the daemon is too old to tell.
      type: int
    bytes_in:
      description: Bytes received.
      type: int
    bytes_out:
      description: Bytes sent.
      type: int
peers_up:
  description: How many peers have a living link.
  type: int
  returned: success
peers_known:
  description: How many peers have a link, living or not.
  type: int
  returned: success
interfaces:
  description: The interfaces that links run over; null without the admin password, or when the daemon is too old to tell.
  type: list
  elements: dict
  returned: success
  contains:
    number:
      description: Number of the interface.
      type: int
    bind:
      description: Address and port, or the name of a device.
      type: str
users:
  description: Names of those who may dial the node; null without the admin password.
  type: list
  elements: str
  returned: success
unreadable:
  description: What the daemon told of its links and could not be read, in words.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import access, admin, conf, running


def with_life(peer: dict) -> dict:
    """The link and whether it lives."""
    return dict(peer, live=peer["state"] == admin.ESTABLISHED and peer["silent_ms"] <= admin.LIVE_SILENCE_MS)


def gather(client: admin.Client) -> dict:
    """Ask for everything; raises admin.AdminError."""
    node = client.node()
    peers = [with_life(peer) for peer in client.peers()]
    return {
        "node": node,
        "peers": peers,
        "peers_up": len({peer["public_key"] for peer in peers if peer["live"]}),
        "peers_known": len({peer["public_key"] for peer in peers}),
        "interfaces": running.interfaces(client) if client.password else None,
        "users": client.users() if client.password else None,
        "unreadable": client.dropped,
    }


def main() -> None:
    module = AnsibleModule(argument_spec=dict(access.ARGUMENTS), supports_check_mode=True)
    try:
        found = gather(access.client(module.params))
    except conf.ConfError as error:
        module.fail_json(msg=str(error))
    except admin.AdminError as error:
        module.fail_json(msg=access.explain(error, module.params["unit"]))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
