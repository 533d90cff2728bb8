#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: wait_for_service
short_description: Wait until a service has healthy instances
version_added: "1.0.0"
description:
  - Asks the Consul agent of the node until as many instances of a service are healthy as are wanted, and answers as soon as they are.
  - An instance is healthy when its node is alive for the others and all checks pass, its own and those of its node. A warning is not
    healthy, and neither is a maintenance.
  - While Consul has no leader, what a server knew last counts, of those nodes that are alive.
  - When the time is over it fails and says what is missing. An agent that hangs, restarts or is not there is asked again until then.
options:
  name:
    description: Name of the service.
    type: str
    required: true
  count:
    description: Number of healthy instances that are wanted.
    type: int
    default: 1
  tag:
    description: Only instances with this tag count.
    type: str
    default: ""
  node:
    description: Only instances on this node count.
    type: str
    default: ""
  in_maintenance:
    description: Whether an instance counts that is in maintenance and healthy apart from it.
    type: bool
    default: false
  steady:
    description:
      - Seconds for which they must have been healthy without a break, below O(timeout).
      - A check that passed before a restart is believed until it is made again. So after one, wait for longer than its interval.
    type: int
    default: 0
  timeout:
    description: Seconds to wait. With V(0) it looks once.
    type: int
    default: 60
  interval:
    description: Seconds after which an agent that had an error is asked again at first; the pauses then become longer.
    type: int
    default: 2
  consul_addr:
    description: Address of the Consul agent.
    type: str
    default: http://127.0.0.1:8500
attributes:
  check_mode:
    support: full
    description: It looks once, and does not fail for what is not there yet. RV(missing) says what that is.
  diff_mode:
    support: none
    description: It changes nothing.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Wait until the web servers are there
  vdloo.mesh.wait_for_service:
    name: web
    count: 2
  run_once: true

- name: Wait until the new instance on this node has been well for ten seconds
  vdloo.mesh.wait_for_service:
    name: web
    node: "{{ inventory_hostname }}"
    tag: v2
    steady: 10
    timeout: 120
"""

RETURN = r"""
instances:
  description: The instances that O(node) and O(tag) are about, healthy or not.
  type: list
  elements: dict
  returned: always
  contains:
    node:
      description: Name of the node in Consul.
      type: str
    id:
      description: Identifier of the service on that node.
      type: str
    address:
      description: Where it listens; the address of the node when it registered none.
      type: str
    port:
      description: Its port, 0 when it registered none.
      type: int
    healthy:
      description: Whether it counts.
      type: bool
    checks:
      description: Each check with its C(id), C(name), C(status) and C(output), which is cut to one line.
      type: list
      elements: dict
  sample: [{node: vps1, id: web, address: fc12::1, port: 8080, healthy: true, checks: []}]
waited:
  description: Seconds that it took.
  type: float
  returned: always
missing:
  description: What is not there; empty when all is.
  type: str
  returned: always
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import checks, client, instances


def problems(options: dict) -> list[str]:
    """What is wrong with the options by themselves."""
    found = []
    if not checks.DNS_LABEL.fullmatch(options["name"]):
        found.append(
            f"name: {options['name']!r:.80} is no name of a service that DNS could answer for: use letters, digits and -, at most 63"
        )
    if options["node"] and not checks.DNS_LABEL.fullmatch(options["node"]):
        found.append(f"node: {options['node']!r:.80} is no name of a node: use the one in `consul members`")
    if not options["tag"].isprintable():
        found.append(f"tag: {options['tag']!r:.80} is no tag: write one line of text")
    if options["count"] < 1:
        found.append(f"count: {options['count']} is below 1: say how many instances are wanted")
    if options["timeout"] < 0:
        found.append(f"timeout: {options['timeout']} is below 0: write seconds, or 0 to look once")
    if options["interval"] < 1:
        found.append(f"interval: {options['interval']} is below 1: write seconds")
    if options["steady"] < 0 or (options["steady"] and options["steady"] >= options["timeout"]):
        found.append(
            f"steady: {options['steady']} is not between 0 and timeout ({options['timeout']}): nobody could be healthy for that long"
        )
    try:
        client.split_addr(options["consul_addr"])
    except ValueError as error:
        found.append(f"consul_addr: {error}")
    return found


def shown(instance: instances.Instance, is_healthy: bool) -> dict:
    return {
        "node": instance.node,
        "id": instance.id,
        "address": instance.address,
        "port": instance.port,
        "healthy": is_healthy,
        "checks": [{**check._asdict(), "output": instances.one_line(check.output)} for check in instance.checks],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "count": {"type": "int", "default": 1},
            "tag": {"type": "str", "default": ""},
            "node": {"type": "str", "default": ""},
            "in_maintenance": {"type": "bool", "default": False},
            "steady": {"type": "int", "default": 0},
            "timeout": {"type": "int", "default": 60},
            "interval": {"type": "int", "default": 2},
            "consul_addr": {"type": "str", "default": "http://127.0.0.1:8500"},
        },
        supports_check_mode=True,
    )
    options = module.params
    wrong = problems(options)
    if wrong:
        module.fail_json(msg="; ".join(wrong))
    wish = instances.Wish(**{field: options[field] for field in instances.Wish._fields})
    timeout, steady = (0, 0) if module.check_mode else (options["timeout"], options["steady"])
    agent = client.Client(options["consul_addr"])
    start = time.monotonic()
    seen, missing = instances.wait(agent, wish.name, wish.lack, timeout, options["interval"], steady)
    if missing == wish.lack([]):
        names = instances.similar_names(agent, wish.name)
        missing += f". Known are {', '.join(names)}" if names and wish.name not in names else ""
    healthy = wish.healthy(seen)
    result = {
        "changed": False,
        "instances": [shown(instance, instance in healthy) for instance in wish.of(seen)],
        "waited": round(time.monotonic() - start, 1),
        "missing": missing,
    }
    if missing and not module.check_mode:
        module.fail_json(msg=f"Waited {result['waited']:g} s for {wish.name}: {missing}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
