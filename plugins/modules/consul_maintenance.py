#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_maintenance
short_description: Let nobody be sent to a node or to one of its services, or let them again
version_added: "1.0.0"
description:
  - Puts the node, or one of its services, into the maintenance mode of Consul. It is then neither in DNS nor behind h2o, while it goes on with what it has.
  - Ends only a maintenance that it has begun itself. One of the operator's stays.
options:
  enabled:
    description: Whether the node or the service is to be in maintenance.
    type: bool
    required: true
  service:
    description:
      - Only the instances of this service on the node, and not all that runs there. Without it, the node.
      - A service that takes back its registration when it stops, and registers itself anew, has lost its maintenance with that.
    type: str
    default: ""
  others:
    description:
      - For O(service), how many healthy instances there must be on other nodes. With fewer it is refused, so that the service goes on.
        An instance that is not healthy may always be drained, as nobody is sent to it.
      - It is looked at again afterwards, so that of two who drain the last two instances at the same time none or one gets it.
    type: int
    default: 0
  remember:
    description:
      - For O(service), whether to keep in Consul's key/value store that the node is drained, below C(vdloo-mesh/v1/drained/), until it is not any more.
        So it is found again when its registration was lost meanwhile.
    type: bool
    default: false
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

- name: Let nobody be sent to the web server of this node, if there is another one
  vdloo.mesh.consul_maintenance:
    enabled: true
    service: web
    others: 1
    reason: new certificate
"""

RETURN = r"""
problem:
  description: Why the agent could not be asked; empty when it could. An agent that does not answer serves nobody.
  type: str
  returned: success
instances:
  description: The identifiers of the instances of O(service) on the node.
  type: list
  elements: str
  returned: success
"""

import time
import typing
import urllib.parse

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import checks, client, instances

MARK = "vdloo-mesh: "
DRAINED = "/v1/kv/" + client.KV_PREFIX + "drained/"
# What Consul is given to tell the leader of a maintenance, and this node of others that have just become healthy.
TOLD_S = 10.0


class RefusedError(Exception):
    """Too few would be left to send anybody to."""


def registered_ids(agent: client.Client, service: str) -> list[str]:
    """The identifiers of the instances of a service that are registered with this agent. Raises ClientError."""
    found = agent.get("/v1/agent/services").value
    entries = found.items() if isinstance(found, dict) else ()
    return sorted(name for name, entry in entries if isinstance(entry, dict) and entry.get("Service") == service)


def targets(ids: list[str] | None) -> dict[str, str]:
    """{check of the maintenance: path of the call that begins or ends it} for these instances, for the node when it is None."""
    if ids is None:
        return {instances.NODE_MAINTENANCE: "/v1/agent/maintenance"}
    return {instances.SERVICE_MAINTENANCE + name: "/v1/agent/service/maintenance/" + urllib.parse.quote(name, safe="") for name in ids}


def change(agent: client.Client, wanted: dict[str, str], enabled: bool, reason: str, check_mode: bool) -> list[str]:
    """Begin or end the maintenances of `wanted`, as targets() has them; return the checks of those that changed. Raises ClientError."""
    known = agent.get("/v1/agent/checks").value
    changed = []
    for check, path in wanted.items():
        found = known.get(check) if isinstance(known, dict) else None
        is_ours = isinstance(found, dict) and str(found.get("Notes", "")).startswith(MARK)
        if enabled == bool(found) or (not enabled and not is_ours):
            continue
        if not check_mode:
            agent.put(path, b"", {"enable": "true", "reason": MARK + reason} if enabled else {"enable": "false"})
        changed.append(check)
    return changed


def remember(agent: client.Client, path: str) -> bool:
    """Keep that the node is drained; tell whether that is new. Raises ClientError."""
    try:
        agent.get(path, {"consistent": ""})
    except client.NotFound:
        agent.put(path, b"{}")
        return True
    return False


def forget(agent: client.Client, path: str) -> None:
    status, _headers, body = agent.request("DELETE", path)
    if status != 200:
        raise client.ClientError(f"DELETE {path}: {status} {body[:200].decode('utf-8', 'replace').strip()}")


def drain_while_served(
    agent: client.Client,
    service: str,
    node: str,
    others: int,
    check_mode: bool,
    begin: typing.Callable[[], list[str]],
    undo: typing.Callable,
) -> list[str]:
    """Begin a maintenance while so many `others` are healthy; return what changed. Raises RefusedError, after undo(changed), and ClientError."""

    def is_served(seen: list[instances.Instance]) -> bool:
        return any(one.node == node and not one.faults() for one in seen)

    def too_few(seen: list[instances.Instance]) -> str:
        elsewhere = [one for one in seen if one.node != node]
        return instances.Wish(service, others).lack(elsewhere) if elsewhere else "it is registered on no other node"

    def refusal(why: str) -> RefusedError:
        return RefusedError(f"{service} on {node} is not drained, as the other nodes cannot do without it: {why}")

    seen, missing = instances.wait(agent, service, lambda seen: too_few(seen) if is_served(seen) else "", 0 if check_mode else TOLD_S)
    if missing:
        raise refusal(missing)
    changed = begin()
    if not changed or check_mode or not is_served(seen):
        return changed
    deadline, missing = time.monotonic() + TOLD_S, "Consul does not tell of the maintenance"
    while time.monotonic() < deadline:
        try:
            # The leader's word: of two who drain at the same time, the second one sees the first one there.
            seen = instances.look(agent, service)
        except client.ClientError as error:
            missing = str(error)
            break
        if all(one.is_in_maintenance for one in seen if one.node == node):
            missing = too_few(seen)
            break
        time.sleep(instances.LEAST_PAUSE_S)
    if missing:
        undo(changed)
        raise refusal(missing)
    return changed


def apply(agent: client.Client, options: dict, check_mode: bool) -> tuple[bool, list[str]]:
    """Do what the options say; return whether that changed anything, and the instances. Raises RefusedError and ClientError."""
    service, enabled, reason = options["service"], options["enabled"], options["reason"]
    if not service:
        return bool(change(agent, targets(None), enabled, reason, check_mode)), []
    ids, node = registered_ids(agent, service), agent.myself()["Config"]["NodeName"]
    path, is_kept, wanted = f"{DRAINED}{service}/{node}", options["remember"] and not check_mode, targets(ids)
    is_new = False

    def begin() -> list[str]:
        nonlocal is_new
        # Before it, so that whoever is killed in between leaves no instance drained that nobody knows of.
        is_new = is_kept and remember(agent, path)
        return change(agent, wanted, True, reason, check_mode)

    def undo(changed: list[str]) -> None:
        change(agent, {check: wanted[check] for check in changed}, False, reason, False)
        if is_new:
            forget(agent, path)

    if enabled and ids and options["others"]:
        return bool(drain_while_served(agent, service, node, options["others"], check_mode, begin, undo)), ids
    if enabled:
        return bool(begin()), ids
    changed = change(agent, wanted, False, reason, check_mode)
    if is_kept:
        forget(agent, path)
    return bool(changed), ids


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "enabled": {"type": "bool", "required": True},
            "service": {"type": "str", "default": ""},
            "others": {"type": "int", "default": 0},
            "remember": {"type": "bool", "default": False},
            "reason": {"type": "str", "default": "vdloo.mesh"},
            "drain": {"type": "int", "default": 5},
            "consul_addr": {"type": "str", "default": "http://127.0.0.1:8500"},
        },
        supports_check_mode=True,
    )
    options = module.params
    service = options["service"]
    if service and not checks.DNS_LABEL.fullmatch(service):
        module.fail_json(
            msg=f"service: {service!r:.80} is no name of a service that DNS could answer for: use letters, digits and -, at most 63"
        )
    if not service and (options["others"] or options["remember"]):
        module.fail_json(msg="others and remember are about a service: name it in service, or leave them out")
    if options["others"] < 0:
        module.fail_json(msg=f"others: {options['others']} is below 0: say how many instances must be healthy on other nodes")
    try:
        changed, ids = apply(client.Client(options["consul_addr"]), options, module.check_mode)
    except RefusedError as error:
        module.fail_json(msg=str(error))
    except (ValueError, client.ClientError) as error:
        module.exit_json(changed=False, problem=str(error), instances=[])
    if changed and options["enabled"] and not module.check_mode:
        time.sleep(max(0, options["drain"]))
    module.exit_json(changed=changed, problem="", instances=ids)


if __name__ == "__main__":
    main()
