#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_settle
short_description: Wait until a Consul agent has its place in the mesh
version_added: "1.0.0"
description:
  - Waits until the agent answers, knows a leader, sees itself alive and, as a server, is a raft peer.
    If that does not come about, it fails with the reason, who is missing, and the last lines of the journal.
  - While there is no leader and nobody else is seen, it asks the agent to join O(retry_join), as an agent itself stops to try
    after its first success.
  - With the first leader it writes O(marker) and removes O(bootstrap_file), so that a node never bootstraps twice.
options:
  unit:
    description: Name of the systemd unit.
    type: str
    default: consul.service
  http_port:
    description: Port of the HTTP API on loopback.
    type: int
    default: 8500
  node_name:
    description: The name that the agent must have.
    type: str
    required: true
  server:
    description: Whether the agent is a server, and so must be a raft peer.
    type: bool
    required: true
  datacenter:
    description: Name of the datacenter, which becomes the content of O(marker).
    type: str
    required: true
  bind_address:
    description: The node's own address.
    type: str
    required: true
  retry_join:
    description: Addresses to join.
    type: list
    elements: str
    default: []
  serf_port:
    description: Port of the gossip, for the addresses in O(retry_join) that name none.
    type: int
    default: 8301
  bootstrap_expect:
    description: Number of servers that the first election waits for, for the message when it does not come.
    type: int
    default: 0
  marker:
    description: File that tells that the node has seen a leader.
    type: path
    required: true
  bootstrap_file:
    description: The configuration file with C(bootstrap_expect).
    type: path
    required: true
  wait:
    description: Whether to wait for the leader. If not, only the agent itself must answer.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for the leader and the node's own place.
    type: int
    default: 90
attributes:
  check_mode:
    support: full
    description: It waits for nothing and joins nobody.
  diff_mode:
    support: none
    description: It waits more than it changes.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Wait until the agent has its place in the mesh
  vdloo.mesh.consul_settle:
    node_name: "{{ inventory_hostname }}"
    server: true
    datacenter: mesh
    bind_address: fc12::1
    retry_join: [fc34::2, fc56::3]
    marker: /var/lib/vdloo-mesh/consul-bootstrapped
    bootstrap_file: /etc/consul.d/bootstrap.json
"""

RETURN = r"""
leader:
  description: Address of the leader; empty when none was waited for and none is known.
  type: str
  returned: success
  sample: "[fc12::1]:8300"
members:
  description: Names of the members that are alive.
  type: list
  elements: str
  returned: success
done:
  description: What the module did.
  type: list
  elements: str
  returned: success
  sample: [removed /etc/consul.d/bootstrap.json]
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import addresses, agent, unit

ANSWER_S = 30
PAUSE_S = 0.5
# The agent tries by itself at first; two restarts in a row are a crash loop.
JOIN_AFTER_S = 20
CRASHES = 2


class NotSettledError(Exception):
    """The agent has not got its place; the message says what is missing."""


def wait_for_agent(module: AnsibleModule, api: agent.Agent) -> dict:
    """Return what the agent says of itself, as soon as it answers."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return api.describe()
        except agent.AgentError as error:
            state = unit.show(module.run_command, module.params["unit"])
            crashed = int(state.get("NRestarts") or 0) >= CRASHES and state.get("ActiveState") != "active"
            if crashed or state.get("ActiveState") in ("failed", "inactive") or time.monotonic() > deadline:
                raise NotSettledError(
                    f"the agent does not answer on 127.0.0.1:{api.port} ({error}); the unit is"
                    f" {state.get('ActiveState')} ({state.get('SubState')}), restarted {state.get('NRestarts')} times"
                ) from error
        time.sleep(PAUSE_S)


def check_identity(options: dict, who: dict) -> None:
    for key, wanted in (("node", options["node_name"]), ("datacenter", options["datacenter"]), ("server", options["server"])):
        if who[key] != wanted:
            raise NotSettledError(
                f"the agent that answers has {key} {who[key]!r} and not {wanted!r}: is another Consul running on this node?"
            )


def missing_place(options: dict, api: agent.Agent) -> str:
    """Tell what is still missing once there is a leader; empty when all is there."""
    if options["node_name"] not in agent.alive_names(api.members()):
        return "the agent does not see itself alive"
    peers = [server["Node"] for server in api.raft_servers()]
    if options["server"] and options["node_name"] not in peers:
        return f"the leader has not taken this server among the raft peers ({', '.join(sorted(peers)) or 'none'})"
    return ""


def explain_no_leader(options: dict, members: list[dict]) -> str:
    """Say who is missing for a leader."""
    alive = agent.alive_names(members)
    seen = {member["Addr"] for member in members if member.get("Status") == agent.ALIVE}
    peers = [addresses.parse_peer(peer)[0] for peer in options["retry_join"]]
    unseen = [peer for peer in peers if peer not in seen and peer != addresses.parse_peer(options["bind_address"])[0]]
    text = f"no leader within {options['timeout']} s; alive are {', '.join(alive) or 'none'}"
    if options["bootstrap_expect"]:
        servers = [m for m in members if m.get("Status") == agent.ALIVE and (m.get("Tags") or {}).get("role") == "consul"]
        text += f"; {len(servers)} of consul_bootstrap_expect {options['bootstrap_expect']} servers are there"
    if unseen:
        text += f"; not seen of consul_retry_join: {', '.join(unseen)} (are they up, reachable on port {options['serf_port']}, and with the same gossip key?)"
    return text


def wait_for_place(options: dict, api: agent.Agent, done: list[str]) -> str:
    """Wait for the leader and the node's own place; returns the leader's address."""
    start = time.monotonic()
    join_at = start + min(JOIN_AFTER_S, options["timeout"] / 3)
    missing = ""
    while True:
        members = []
        try:
            leader = api.leader()
            if leader:
                missing = missing_place(options, api)
                if not missing:
                    return leader
            else:
                members = api.members()
                missing = explain_no_leader(options, members)
                if time.monotonic() > join_at and len(agent.alive_names(members)) < 2:
                    join_at = time.monotonic() + JOIN_AFTER_S
                    for peer in addresses.other_peers(options["retry_join"], options["bind_address"], options["serf_port"]):
                        if api.join(peer):
                            done.append(f"joined {peer}")
                            break
        except agent.AgentError as error:
            missing = str(error)
        if time.monotonic() - start > options["timeout"]:
            raise NotSettledError(missing)
        time.sleep(PAUSE_S)


def end_bootstrap(options: dict, check_mode: bool) -> list[str]:
    """Remember that there was a leader, and take away what could elect another one."""
    done = []
    marker, bootstrap_file = options["marker"], options["bootstrap_file"]
    # The marker comes first: killed in between, the next run sees it and removes the file.
    if not os.path.exists(marker):
        done.append(f"wrote {marker}")
        if not check_mode:
            os.makedirs(os.path.dirname(marker), mode=0o755, exist_ok=True)
            files.write(marker, (options["datacenter"] + "\n").encode(), 0o644)
    if os.path.exists(bootstrap_file):
        done.append(f"removed {bootstrap_file}")
        if not check_mode:
            os.unlink(bootstrap_file)
            files.sync_directory(os.path.dirname(bootstrap_file))
    return done


def settle(module: AnsibleModule) -> dict:
    options = module.params
    api = agent.Agent(options["http_port"])
    done: list[str] = []
    who = wait_for_agent(module, api)
    leader = who["leader"]
    if not module.check_mode:
        check_identity(options, who)
        if options["wait"]:
            leader = wait_for_place(options, api, done)
    if leader:
        done += end_bootstrap(options, module.check_mode)
    return {"changed": bool(done), "leader": leader, "members": agent.alive_names(api.members()), "done": done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "default": "consul.service"},
            "http_port": {"type": "int", "default": 8500},
            "node_name": {"type": "str", "required": True},
            "server": {"type": "bool", "required": True},
            "datacenter": {"type": "str", "required": True},
            "bind_address": {"type": "str", "required": True},
            "retry_join": {"type": "list", "elements": "str", "default": []},
            "serf_port": {"type": "int", "default": 8301},
            "bootstrap_expect": {"type": "int", "default": 0},
            "marker": {"type": "path", "required": True},
            "bootstrap_file": {"type": "path", "required": True},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    try:
        result = settle(module)
    except (NotSettledError, agent.AgentError, OSError) as error:
        journal = unit.last_words(module.run_command, module.params["unit"])
        module.fail_json(msg=f"{error}. The last lines of its journal:\n{journal}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
