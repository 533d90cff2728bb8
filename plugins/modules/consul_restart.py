#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_restart
short_description: Restart a Consul agent without a risk for the quorum
version_added: "1.0.0"
description:
  - Restarts the agent. If it is a server in a mesh with a leader, it first waits until all servers are healthy and the voters
    tolerate the loss of one, and afterwards until there is a leader and all who voted before vote again.
  - With C(throttle=1) on the task, a set of servers is so restarted one at a time, and a restart that goes wrong stops the others.
  - A mesh of one or two voters tolerates no loss. There the restart is a short pause without a leader.
  - Without a leader there is no quorum to lose, so the agent is restarted at once.
options:
  unit:
    description: Name of the systemd unit.
    type: str
    default: consul.service
  http_port:
    description: Port of the HTTP API on loopback, as the configuration has it now.
    type: int
    default: 8500
  bootstrapped:
    description: Whether this node has ever seen a leader. If not, none is waited for.
    type: bool
    default: true
  force:
    description: Restart even though the servers are not healthy.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for healthy servers, before as well as after the restart.
    type: int
    default: 90
attributes:
  check_mode:
    support: full
    description: It says that it would restart the agent.
  diff_mode:
    support: none
    description: A restart has no before and after.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Restart the servers, one at a time
  vdloo.mesh.consul_restart:
  throttle: 1
"""

RETURN = r"""
gated:
  description: Whether the quorum had to be considered.
  type: bool
  returned: success
voters:
  description: Names of the voters after the restart, if the quorum had to be considered.
  type: list
  elements: str
  returned: success
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent, unit

PAUSE_S = 1
ANSWER_S = 30
# A leader may be missing for a moment while another is elected.
ELECTION_S = 20


class RestartError(Exception):
    """The agent was not restarted, or did not come back; the message says which and why."""


def leader_within(api: agent.Agent, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while True:
        try:
            leader = api.leader()
        except agent.AgentError:
            leader = ""
        if leader or time.monotonic() > deadline:
            return leader
        time.sleep(PAUSE_S)


def wait_for_health(api: agent.Agent, seconds: float, voters: set[str]) -> tuple[set[str], str]:
    """Wait until no server is at risk and all of `voters` vote; returns the voters and what is still wrong."""
    deadline = time.monotonic() + seconds
    while True:
        now: set[str] = set()
        try:
            health = api.health()
            now = agent.voter_names(health)
            risk = agent.restart_risk(health)
            if not risk and voters - now:
                risk = "no vote yet: " + ", ".join(sorted(voters - now))
        except agent.AgentError as error:
            risk = str(error)
        if not risk or time.monotonic() > deadline:
            return now, risk
        time.sleep(PAUSE_S)


def restart(module: AnsibleModule) -> dict:
    options = module.params
    uid = unit.main_uid(unit.show(module.run_command, options["unit"]))
    port, who = agent.find(uid, options["http_port"]) if uid is not None else (options["http_port"], {})
    api = agent.Agent(port)
    leader = ""
    if who.get("server"):
        leader = who["leader"] or (leader_within(api, ELECTION_S) if options["bootstrapped"] else "")
    gated = bool(leader) and not options["force"]
    voters: set[str] = set()
    if module.check_mode:
        return {"changed": True, "gated": gated, "voters": []}
    if gated:
        voters, risk = wait_for_health(api, options["timeout"], set())
        if risk:
            raise RestartError(
                f"the agent was not restarted, as that could cost the quorum ({risk}):"
                " repair that first, or set consul_restart_unhealthy to true to restart all the same"
            )
    command("daemon-reload", module)
    command("restart", module, options["unit"])
    api = agent.Agent(options["http_port"])
    if not wait_for_answer(module, api)["server"]:
        voters.discard(who.get("node"))
    if gated:
        if not leader_within(api, options["timeout"]):
            raise RestartError(f"the agent was restarted, but there is no leader after {options['timeout']} s")
        voters, risk = wait_for_health(api, options["timeout"], voters)
        if risk:
            raise RestartError(f"the agent was restarted, but the servers are not healthy again after {options['timeout']} s ({risk})")
    return {"changed": True, "gated": gated, "voters": sorted(voters)}


def command(verb: str, module: AnsibleModule, *names: str) -> None:
    rc, _out, err = module.run_command(["systemctl", verb, *names])
    if rc != 0:
        raise RestartError(f"systemctl {verb} failed: {err.strip()}")


def wait_for_answer(module: AnsibleModule, api: agent.Agent) -> dict:
    """Return what the restarted agent says of itself, as soon as it answers."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return api.describe()
        except agent.AgentError as error:
            if time.monotonic() > deadline:
                raise RestartError(f"the agent was restarted but does not answer: {error}") from error
        time.sleep(PAUSE_S)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "default": "consul.service"},
            "http_port": {"type": "int", "default": 8500},
            "bootstrapped": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    try:
        result = restart(module)
    except RestartError as error:
        journal = unit.last_words(module.run_command, module.params["unit"])
        module.fail_json(msg=f"{error}. The last lines of its journal:\n{journal}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
