#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cjdns_live
short_description: Bring the running cjdns to its configuration file
version_added: "1.0.0"
description:
  - A restart of cjdns ends every link and session of the node. This module changes the peers and the passwords of the running daemon instead,
    and does not touch the links that nobody asked to change. Where more than these has changed, it asks for a restart.
  - It compares the configuration file with a copy of the one that the daemon was started with, which the daemon's unit makes at every start,
    and with the links and users that the daemon tells of. Afterwards the copy is replaced.
  - A peer that is to be dialled, but with which there is no link left, is dialled again. A user that is missing is let in again.
  - Peers and users that were added by hand, for example with M(vdloo.mesh.cjdns_peer), stay.
  - When a password of this node is changed or taken away, whoever came in with it is dropped. When the password for a peer or its address
    is changed, the peer is dropped and dialled anew. cjdns drops by key, so that all links with that node end, and those are made again that
    the file has.
  - A run that was stopped half way can be repeated.
  - It restarts nothing itself. See RV(restart).
extends_documentation_fragment:
  - vdloo.mesh.cjdns_admin
options:
  started_path:
    description: Copy of the configuration that the running daemon has, for root alone. It must vanish when the daemon stops.
    type: path
    default: /run/cjdns/started.conf
  unit:
    description: Name of the unit that runs cjdns. When it does not run, nothing is done, as its start reads the file.
    type: str
    default: cjdns.service
attributes:
  check_mode:
    support: full
    description: The daemon is asked what it has, and nothing is changed.
  diff_mode:
    support: full
    description: The names of those who are accepted and dialled.
seealso:
  - module: vdloo.mesh.cjdns_config
  - module: vdloo.mesh.cjdns_peer
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Bring the running cjdns to its configuration file
  vdloo.mesh.cjdns_live:
  register: cjdns_live

- name: Restart cjdns where that is not enough
  ansible.builtin.systemd_service:
    name: cjdns
    state: restarted
  when: cjdns_live.restart
"""

RETURN = r"""
restart:
  description: Whether only a restart brings the file into force. What was done before that became clear is in RV(steps).
  type: bool
  returned: always
reason:
  description: Why a restart is needed; empty when it is not.
  type: str
  returned: always
  sample: admin.bind cannot be changed while cjdns runs
running:
  description: Whether the service runs, and has for some seconds. When it ended meanwhile, nothing was done.
  type: bool
  returned: always
steps:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
  sample:
    - stop accepting pi
    - disconnect pi
    - dial vps2 at 192.0.2.1:4321
"""

import json
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files, systemd
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import access, admin, conf, live, running

# A daemon that was just started is being told its own peers and users, one by one, and dies of one that it has already.
SETTLE_S = 5.0


def start_of(module: AnsibleModule) -> float | None:
    """When the service was started, in seconds of the monotonic clock; None when it does not run."""
    unit = module.params["unit"]
    try:
        properties = systemd.show([unit], ("ActiveState", "ActiveEnterTimestampMonotonic"), module.run_command)[unit]
    except systemd.SystemdError as error:
        module.fail_json(msg=str(error))
    if properties.get("ActiveState") not in ("active", "reloading"):
        return None
    return int(properties.get("ActiveEnterTimestampMonotonic") or 0) / 1e6


def settle(module: AnsibleModule) -> bool:
    """Give a daemon that was just started its time; tell whether the service runs, and did not end meanwhile."""
    start = start_of(module)
    if start is None:
        return False
    left = SETTLE_S - (time.clock_gettime(time.CLOCK_MONOTONIC) - start)
    time.sleep(max(0.0, left))
    return left <= 0 or start_of(module) == start


def describe(steps: list[live.Step], peers: list[dict], users: list[str]) -> dict:
    """The users and the dialled peers of the daemon before the steps and after them, by name."""
    dials = {
        f"{peer['user'] or peer['public_key']} at {peer['endpoint'] or 'an address that is not told'}": peer["public_key"]
        for peer in peers
        if not peer["incoming"]
    }
    before = {"accepts": sorted(set(users)), "dials": sorted(dials)}
    accepts = set(users)
    for step in steps:
        subject = step.words.split(" ", 1)[1]
        if step.call == "unauthorize":
            accepts.discard(step.arguments[0])
        elif step.call == "disconnect":
            dials = {words: key for words, key in dials.items() if key != step.arguments[0]}
        elif step.call == "authorize":
            accepts.add(f"{subject} (new password)" if subject in users else subject)
        else:
            dials[f"{subject} (anew)" if subject in before["dials"] else subject] = step.arguments[1]
    after = {"accepts": sorted(accepts), "dials": sorted(dials)}
    return {part: json.dumps(content, indent=2) + "\n" for part, content in (("before", before), ("after", after))}


def carry_out(client: admin.Client, step: live.Step) -> None:
    for _time in range(step.times):
        # False: there is nothing left to do it to.
        if getattr(client, step.call)(*step.arguments) is False:
            return


def change(client: admin.Client, steps: list[live.Step], result: dict, started_path: str, text: str | None) -> None:
    """Carry the steps out, and tell of each in the result; a text is what the daemon has afterwards."""
    if text is not None:
        files.write(running.unfinished(started_path), text.encode(), 0o600)
    for step in steps:
        carry_out(client, step)
        result.update(changed=True, steps=[*result["steps"], step.words])
    if text is not None:
        os.rename(running.unfinished(started_path), started_path)


def bring(module: AnsibleModule, result: dict) -> None:
    """Do everything, and tell of it in the result; raises running.RestartNeeded."""
    params = module.params
    path, started_path = params["config_path"], params["started_path"]
    wished, started = running.load(path), running.load(started_path)
    if wished.text is None:
        if module.check_mode:
            raise running.RestartNeeded(f"{path} is not there yet")
        module.fail_json(msg=f"{path} is not there, or cannot be read: run vdloo.mesh.cjdns_config first", **result)
    running.check_comparable(path, started_path, wished, started)
    if wished.config is None:
        module.warn(f"{path} is not JSON with comments, so it was not looked whether cjdns lacks a peer or a user")
        return
    secrets = conf.secrets(wished.config) | conf.secrets(started.config)
    try:
        client = access.client(params)
        steps, *found = running.look(client, live.split(started.config), live.split(wished.config))
    except (admin.AdminError, conf.ConfError) as error:
        reason = conf.mask_text(str(error), secrets)
        if started.text != wished.text:
            raise running.RestartNeeded(reason) from None
        # As far as is known it has what it is to have: no reason to end the links of a daemon that is slow to answer.
        module.warn(f"it could not be looked whether cjdns lacks a peer or a user: {reason}")
        return
    result["diff"] = describe(steps, *found)
    if module.check_mode:
        result.update(changed=bool(steps), steps=[step.words for step in steps])
        return
    try:
        change(client, steps, result, started_path, wished.text if wished.text != started.text else None)
    except admin.AdminError as error:
        raise running.RestartNeeded(conf.mask_text(str(error), secrets)) from None
    except OSError as error:
        raise running.RestartNeeded(f"{started_path} cannot be written: {error}") from None


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(access.ARGUMENTS, started_path={"type": "path", "default": "/run/cjdns/started.conf"}),
        supports_check_mode=True,
    )
    result = {"changed": False, "restart": False, "reason": "", "steps": [], "running": settle(module)}
    if result["running"]:
        try:
            bring(module, result)
        except running.RestartNeeded as needed:
            result.update(restart=True, reason=str(needed), diff={"before": "", "after": f"restart: {needed}\n"})
    module.exit_json(**result)


if __name__ == "__main__":
    main()
