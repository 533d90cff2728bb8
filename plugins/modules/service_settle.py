#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: service_settle
short_description: Have the Consul agent read the definition of a service
version_added: "1.0.0"
description:
  - Has the agent of the node read its files again, by a reload and never a restart, unless it has the definition already. Then waits until it shows it.
  - It needs no leader and no other node.
  - Fails with RV(refused) set when the agent does not take its files.
options:
  name:
    description: Name of the service.
    type: str
    required: true
  mark:
    description: The mark in the definition that the agent should have. Empty when the agent should have no such service, however that came there.
    type: str
    default: ""
  http_port:
    description: Port of the agent's API on the loopback.
    type: int
    default: 8500
  timeout:
    description: Seconds to wait for the agent.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: Says whether the agent would read its files.
  diff_mode:
    support: none
    description: The files show what changes.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Have the agent read the definition
  vdloo.mesh.service_settle:
    name: web
    mark: 0123456789abcdef
"""

RETURN = r"""
refused:
  description: Whether the agent has not taken its files.
  type: bool
  returned: on failure
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client, services

PAUSE_S = 0.2
REFUSED = 500


class NotSettledError(Exception):
    """Why the agent has not got the definition, or the lack of one."""

    refused = False


class RefusedError(NotSettledError):
    """The agent does not take its files."""

    refused = True


def is_due(agent: client.Client, name: str, mark: str) -> bool:
    """Whether the agent has to read its files; one that does not answer now would have to."""
    try:
        return not services.has(services.registered(agent), name, mark)
    except client.ClientError:
        return True


def settle(agent: client.Client, name: str, mark: str, deadline: float) -> bool:
    """Have the agent read its files, once it answers, where it has not; tell whether it had to."""
    reloaded = removed = False
    while True:
        try:
            if services.has(services.registered(agent), name, mark):
                return reloaded
            if not reloaded:
                reload(agent)
                reloaded = True
                continue
            if not mark and not removed:
                # No file has it any more: it came by the API, from whoever published it before.
                agent.put(f"/v1/agent/service/deregister/{name}")
                removed = True
                continue
            problem = f"the agent has read its files, and {'does not show' if mark else 'still shows'} the service {name} as they have it"
        except client.ClientError as error:
            problem = f"the agent does not answer ({error})"
        if time.monotonic() > deadline:
            raise NotSettledError(problem)
        time.sleep(PAUSE_S)


def reload(agent: client.Client) -> None:
    status, _headers, body = agent.request("PUT", "/v1/agent/reload")
    if status >= REFUSED:
        raise RefusedError(f"the agent does not take its files: {body[:500].decode('utf-8', 'replace').strip()}")
    if status != 200:
        raise client.ClientError(f"PUT {agent.addr}/v1/agent/reload: {status}")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "mark": {"type": "str", "default": ""},
            "http_port": {"type": "int", "default": client.DEFAULT_PORT},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    options = module.params
    agent = client.Client(f"http://127.0.0.1:{options['http_port']}")
    try:
        if module.check_mode:
            changed = is_due(agent, options["name"], options["mark"])
        else:
            changed = settle(agent, options["name"], options["mark"], time.monotonic() + options["timeout"])
    except NotSettledError as error:
        module.fail_json(msg=str(error), refused=error.refused)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
