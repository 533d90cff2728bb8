#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mesh_lock
short_description: Keep the nodes from converging the mesh, or others from what you do, for a while
version_added: "1.0.0"
description:
  - Takes the lock in Consul that a node has while it converges the mesh, so that none begins before it is given back. Nodes that find it taken stand down.
  - It waits for whoever has it. A lock that an earlier command of the same O(holder) left behind is taken over.
  - Nobody renews it. It ends by itself after one to two times O(ttl), if it is not taken again before.
options:
  state:
    description: Whether the lock is to be had.
    type: str
    choices: [held, free]
    default: held
  name:
    description: Another lock than that of the nodes that converge the mesh, for what only one run at a time is to do, such as V(rolling-web).
    type: str
    default: converge
  holder:
    description: Who has it, in words that are no name of a node, such as V(leave of vps1).
    type: str
    required: true
  ttl:
    description: Seconds after which it ends by itself.
    type: int
    default: 600
  wait:
    description: Seconds to wait for somebody else who has it.
    type: int
    default: 300
  consul_addr:
    description: Address of the Consul agent.
    type: str
    default: http://127.0.0.1:8500
attributes:
  check_mode:
    support: full
    description: Nothing is taken, nobody is waited for.
  diff_mode:
    support: none
    description: A lock has no content.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Let no node converge the mesh
  vdloo.mesh.mesh_lock:
    holder: leave of vps1
  run_once: true
"""

RETURN = r"""
waited:
  description: Who had the lock before, and was waited for; empty when nobody was.
  type: str
  returned: success
"""

import json
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import registry
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock, lock

PAUSE_S = 1.0
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
HOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,.-]{0,1000}")


class LockError(Exception):
    """Why the lock cannot be had, and what to do."""


def release(agent: client.Client, key: str, session: str) -> None:
    # In this order: a lock whose session ends while it is held has to rest.
    agent.put(key, b"", {"release": session})
    agent.put("/v1/session/destroy/" + session)


def hold(agent: client.Client, key: str, holder: str, ttl: int, wait: int) -> str:
    """Take the lock, or take it anew; return who was waited for. Raises LockError, and ClientError as the agent does."""
    deadline, waited = time.monotonic() + wait, ""
    while True:
        told, session = lock.look(agent, key)
        if session and told.get("node") == holder:
            release(agent, key, session)
        elif session:
            waited = str(told.get("node") or "somebody")
        if (not session or told.get("node") == holder) and _take(agent, key, holder, ttl):
            return waited
        if time.monotonic() >= deadline:
            raise LockError(
                f"{waited} has the lock since {told.get('since', 'some time')} and did not give it back within {wait} s: wait until its run has ended, or "
                + (
                    "end it there (systemctl stop vdloo-mesh-converge), and run again"
                    if key == lock.KEY
                    else f"if it is dead, `consul kv delete {key[len('/v1/kv/') :]}`, and run again"
                )
                if session
                else f"nobody has the lock, but Consul did not give it away within {wait} s: run again when Consul is well"
            )
        time.sleep(PAUSE_S)


def _take(agent: client.Client, key: str, holder: str, ttl: int) -> bool:
    wanted = {"Name": holder, "TTL": f"{ttl}s", "Behavior": "release", "LockDelay": f"{lock.DELAY_S}s", "Checks": [], "NodeChecks": []}
    answer = agent.put("/v1/session/create", json.dumps(wanted).encode())
    if not isinstance(answer, dict) or not isinstance(answer.get("ID"), str):
        raise client.ClientError("PUT /v1/session/create: the answer is not what Consul answers")
    word = json.dumps({"node": holder, "pid": 0, "since": clock.now(), "reason": "hand"}).encode()
    if agent.put(key, word, {"acquire": answer["ID"]}) is True:
        return True
    agent.put("/v1/session/destroy/" + answer["ID"])
    return False


def free(agent: client.Client, key: str, holder: str) -> bool:
    """Give the lock back, if this holder has it; tell whether it had."""
    told, session = lock.look(agent, key)
    if not session or told.get("node") != holder:
        return False
    release(agent, key, session)
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "free"], "default": "held"},
            "name": {"type": "str", "default": "converge"},
            "holder": {"type": "str", "required": True},
            "ttl": {"type": "int", "default": 600},
            "wait": {"type": "int", "default": 300},
            "consul_addr": {"type": "str", "default": "http://127.0.0.1:8500"},
        },
        supports_check_mode=True,
    )
    options = module.params
    # A node takes over what bears its own name, as that can only be left from a run that died.
    if not HOLDER.fullmatch(options["holder"]) or registry.DNS_LABEL.fullmatch(options["holder"]):
        module.fail_json(msg=f"holder: {options['holder']!r} may be the name of a node: write some words, as in: leave of vps1")
    if not NAME.fullmatch(options["name"]):
        module.fail_json(msg=f"name: {options['name']!r:.80} is no name of a lock: use lower-case letters, digits and -")
    if not 10 <= options["ttl"] <= 86400:
        module.fail_json(msg=f"ttl: {options['ttl']} is none that Consul takes: write seconds from 10 to 86400")
    if module.check_mode:
        module.exit_json(changed=False, waited="")
    key = lock.FOLDER + options["name"]
    try:
        agent = client.Client(options["consul_addr"])
        if options["state"] == "free":
            module.exit_json(changed=free(agent, key, options["holder"]), waited="")
        waited = hold(agent, key, options["holder"], options["ttl"], options["wait"])
    except (LockError, ValueError, client.ClientError) as error:
        module.fail_json(msg=f"The lock could not be {'taken' if options['state'] == 'held' else 'given back'}: {error}")
    module.exit_json(changed=True, waited=waited)


if __name__ == "__main__":
    main()
