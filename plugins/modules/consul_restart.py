#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_restart
short_description: Restart a Consul agent, or change its role, without a risk for the quorum
version_added: "1.0.0"
description:
  - Restarts the agent, so that it runs with the configuration that is on the node now. What that means for the quorum follows from what
    the running agent is and from O(server), what the configuration makes of it.
  - A server that stays one first waits until all servers are healthy and the voters tolerate the loss of one, and afterwards until there
    is a leader and all who voted before vote again.
  - A client that becomes a server takes nothing away, so it is restarted at once. Then the module waits until it has a vote and the voters
    tolerate the loss of one.
  - A server that becomes a client first waits until all of O(voters) vote and are healthy. Then it leaves the mesh, which takes its vote in an
    orderly way, and comes back as a client. The only voter never does. Without a leader none does.
  - With C(throttle=1) on the task, a set of servers is so changed one at a time, and a change that goes wrong stops the others.
  - A mesh of one or two voters tolerates no loss. There the restart is a short pause without a leader.
  - Without a leader there is no quorum to lose, so an agent that keeps its role, or becomes a server, is restarted at once.
  - With O(leave) the agent leaves the mesh as carefully as a server that becomes a client does, and then stays away.
options:
  unit:
    description: Name of the systemd unit. It must not start an agent again that has ended with the exit status 0, as it does when it leaves.
    type: str
    default: consul.service
  http_port:
    description: Port of the HTTP API on loopback, as the configuration has it now.
    type: int
    default: 8500
  server:
    description: Whether the configuration makes the agent a server. If not given, the agent keeps its role.
    type: bool
  leave:
    description: Leave the mesh and do not come back. The unit is stopped and not started at boot any more. O(server) is not looked at.
    type: bool
    default: false
  voters:
    description:
      - Names of the servers that the mesh is to have. A server becomes a client only when all of them vote.
      - If empty, it does so when the others still tolerate the loss of one.
    type: list
    elements: str
    default: []
  bootstrapped:
    description: Whether this node has ever seen a leader. If not, none is waited for.
    type: bool
    default: true
  force:
    description: Change the agent even though the servers are not healthy.
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

- name: Leave the mesh
  vdloo.mesh.consul_restart:
    leave: true
    voters: [vps1, vps2, vps3]
  throttle: 1

- name: Make a client of a server whose configuration says so already
  vdloo.mesh.consul_restart:
    server: false
    voters: [vps1, vps2, vps3]
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
restarted:
  description: Whether the agent was touched. If not, it runs as before, with the configuration of before.
  type: bool
  returned: failure
"""

import time
import typing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent, unit

PAUSE_S = 1
ANSWER_S = 30
# A leader may be missing for a moment while another is elected.
ELECTION_S = 20
# Autopilot looks at the servers every 2 s: so old can be what it says of one that was restarted, or has just died.
OLD_NEWS_S = 4
# A server that leaves waits until the others have taken its vote, then for its own drain time.
LEAVE_S = 60


class RestartError(Exception):
    """The agent did not come back as it should; the message says why."""


class RefusedError(RestartError):
    """The agent was left as it was; the message says why."""


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


def wait_for_health(api: agent.Agent, seconds: float, judge: typing.Callable[[dict], str], steady: float = 0) -> tuple[dict, str]:
    """Wait until `judge` finds nothing wrong with the servers' health for `steady` seconds; returns that health and what is still wrong."""
    start = well_since = time.monotonic()
    while True:
        health: dict = {}
        try:
            health = api.health()
            risk = judge(health)
        except agent.AgentError as error:
            risk = str(error)
        now = time.monotonic()
        if risk:
            well_since = now
        if now - start > seconds if risk else now - well_since >= steady:
            return health, risk
        time.sleep(PAUSE_S)


def change(module: AnsibleModule) -> dict:
    """Do what the running agent and the configuration ask for: keep its role, or take or give up the vote."""
    options = module.params
    shown = unit.show(module.run_command, options["unit"])
    uid = unit.main_uid(shown)
    port, who = agent.find(uid, options["http_port"]) if uid is not None else (options["http_port"], {})
    api = agent.Agent(port)
    was_server = bool(who.get("server"))
    if options["leave"]:
        return leave(module, api, who, shown)
    will_be_server = was_server if options["server"] is None else options["server"]
    leader = ""
    if was_server or (will_be_server and who):
        leader = who["leader"] or (leader_within(api, ELECTION_S) if options["bootstrapped"] else "")
    gated = bool(leader) and not options["force"]
    if module.check_mode:
        return {"changed": True, "gated": gated, "voters": []}
    if was_server and not will_be_server:
        voters = demote(module, api, who, leader)
    elif will_be_server and not was_server:
        voters = promote(module, api, known=bool(who), gated=gated)
    else:
        voters = restart(module, api, gated)
    return {"changed": True, "gated": gated, "voters": sorted(voters) if gated else []}


def restart(module: AnsibleModule, api: agent.Agent, gated: bool) -> set[str]:
    """Restart an agent that keeps its role."""
    timeout = module.params["timeout"]
    voters: set[str] = set()
    if gated:
        health, risk = wait_for_health(api, timeout, agent.restart_risk)
        if risk:
            raise RefusedError(
                f"the agent was not restarted, as that could cost the quorum ({risk}):"
                " repair that first, or set consul_restart_unhealthy to true to restart all the same"
            )
        voters = agent.voter_names(health)
    api, now = start(module)
    if not now["server"]:
        voters.discard(now["node"])
    if gated:
        expect_leader(api, timeout)
        health, risk = wait_for_health(api, timeout, lambda health: agent.return_lack(health, voters), OLD_NEWS_S)
        if risk:
            raise RestartError(f"the agent was restarted, but the servers are not healthy again after {timeout} s ({risk})")
        voters = agent.voter_names(health)
    return voters


def promote(module: AnsibleModule, api: agent.Agent, known: bool, gated: bool) -> set[str]:
    """Make a server of a client, or of a node whose agent did not run (not `known`), and wait for its vote."""
    options = module.params
    tolerated = tolerance(api) if gated else 0
    api, now = start(module)
    if not now["server"]:
        raise RestartError("the agent was restarted to be a server, but is a client: what else is in its configuration?")
    if not known and options["bootstrapped"] and not options["force"]:
        # Nobody knows whether there is a mesh to vote in: when all servers were down, the leader comes with those that follow.
        gated = bool(leader_within(api, ELECTION_S))
    if not gated:
        return set()
    expect_leader(api, options["timeout"])
    health, lack = wait_for_health(api, options["timeout"], lambda health: agent.return_lack(health, {now["node"]}))
    if lack:
        if now["node"] not in agent.healthy_voters(health) or int(health.get("FailureTolerance") or 0) < tolerated:
            raise RestartError(f"the agent was restarted as a server, but the mesh cannot rely on it after {options['timeout']} s ({lack})")
        module.warn(f"{now['node']} votes, but the mesh tolerates no more losses than before ({lack})")
    return agent.voter_names(health)


def tolerance(api: agent.Agent) -> int:
    """How many voters may be lost now; 0 when nobody tells."""
    try:
        return int(api.health().get("FailureTolerance") or 0)
    except agent.AgentError:
        return 0


def demote(module: AnsibleModule, api: agent.Agent, who: dict, leader: str) -> set[str]:
    """Take a server's vote by leaving the mesh, and start it as a client."""
    options = module.params
    name, timeout = who["node"], options["timeout"]
    if not leader:
        if options["bootstrapped"] and not options["force"]:
            raise RefusedError(
                f"{name} stays a server, as the mesh has no leader and may need its vote to get one:"
                " bring the other servers back first, or set consul_restart_unhealthy to true to make it a client all the same"
            )
        start(module)
        return set()
    give_up_vote(module, api, name)
    # A server that comes back as a client without having left stays a dead peer of the others, until they notice.
    api.leave(LEAVE_S)
    wait_for_end(api)
    api, now = start(module)
    if now["server"]:
        raise RestartError("the agent was restarted to be a client, but is a server: what else is in its configuration?")
    if options["force"]:
        return set()
    expect_leader(api, timeout)
    health, risk = wait_for_health(
        api, timeout, lambda health: f"{name} still votes" if name in agent.voter_names(health) else agent.restart_risk(health)
    )
    if risk:
        raise RestartError(f"{name} is a client now, but the servers are not healthy after {timeout} s ({risk})")
    return agent.voter_names(health)


def give_up_vote(module: AnsibleModule, api: agent.Agent, name: str) -> None:
    """Wait until the others can do without the vote of this server."""
    options = module.params
    if options["force"]:
        return
    _health, risk = wait_for_health(
        api, options["timeout"], lambda health: agent.demotion_risk(health, name, set(options["voters"])), OLD_NEWS_S
    )
    if risk:
        raise RefusedError(
            f"{name} stays a server, as the others cannot do without its vote ({risk}): repair that first"
            + ("" if options["leave"] else ", or set consul_restart_unhealthy to true to make it a client all the same")
        )


def leave(module: AnsibleModule, api: agent.Agent, who: dict, shown: dict) -> dict:
    """Leave the mesh for good. What an earlier call, perhaps a killed one, has already done is not done again."""
    enabled = shown.get("UnitFileState") == "enabled"
    is_up = bool(who) or shown.get("ActiveState") not in (None, "inactive", "failed")
    if module.check_mode or not (is_up or enabled):
        return {"changed": is_up or enabled, "gated": bool(who.get("server")), "voters": []}
    if who.get("server"):
        if not (who["leader"] or leader_within(api, ELECTION_S)) and not module.params["force"]:
            raise RefusedError(
                f"{who['node']} does not leave, as the mesh has no leader to take its vote in an orderly way: bring the other servers back first"
            )
        give_up_vote(module, api, who["node"])
    if who:
        api.leave(LEAVE_S)
        wait_for_end(api)
    # Not before: what systemd stops has not left.
    command("disable", module, "--now", module.params["unit"])
    return {"changed": True, "gated": bool(who.get("server")), "voters": []}


def wait_for_end(api: agent.Agent) -> None:
    """Wait until an agent that has left does not answer any more."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            api.leader()
        except agent.AgentError:
            return
        if time.monotonic() > deadline:
            raise RestartError(f"the agent was asked to leave the mesh but still runs after {LEAVE_S} s: stop it, and run again")
        time.sleep(PAUSE_S)


def expect_leader(api: agent.Agent, seconds: float) -> None:
    if not leader_within(api, seconds):
        raise RestartError(f"the agent was restarted, but there is no leader after {seconds} s")


def start(module: AnsibleModule) -> tuple[agent.Agent, dict]:
    """Restart the unit with its present files; returns the agent and what it says of itself."""
    command("daemon-reload", module)
    command("restart", module, module.params["unit"])
    api = agent.Agent(module.params["http_port"])
    return api, wait_for_answer(api)


def command(verb: str, module: AnsibleModule, *names: str) -> None:
    rc, _out, err = module.run_command(["systemctl", verb, *names])
    if rc != 0:
        raise RestartError(f"systemctl {verb} failed: {err.strip()}")


def wait_for_answer(api: agent.Agent) -> dict:
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
            "server": {"type": "bool"},
            "leave": {"type": "bool", "default": False},
            "voters": {"type": "list", "elements": "str", "default": []},
            "bootstrapped": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    try:
        result = change(module)
    except (RestartError, agent.AgentError) as error:
        journal = unit.last_words(module.run_command, module.params["unit"])
        restarted = not isinstance(error, (RefusedError, agent.AgentError))
        module.fail_json(msg=f"{error}. The last lines of its journal:\n{journal}", restarted=restarted)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
