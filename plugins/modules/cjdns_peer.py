#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cjdns_peer
short_description: Link a running cjdns with a peer, or drop the link
version_added: "1.0.0"
description:
  - Dials a peer, lets one in, or drops it, in the running daemon. Other links are not touched, and nothing is restarted.
  - B(What this module does lasts until the daemon restarts.) What is to stay belongs in the inventory, as the variables C(mesh_endpoints) and
    C(cjdns_peers), from which the role P(vdloo.mesh.cjdns#role) writes the daemon's configuration. M(vdloo.mesh.cjdns_live), which the role
    uses, leaves alone what was added, and undoes the removal of what the configuration has.
  - The module needs the admin password. By default it reads it from O(config_path), which only root can.
extends_documentation_fragment:
  - vdloo.mesh.cjdns_admin
options:
  state:
    description:
      - With V(present) and O(address), the peer is dialled, unless a link with it is established already, or that very address is being
        dialled. Where another address of the peer is dialled without success, that is given up first.
      - With V(present) and no O(address), the peer is let in when it dials with O(password), as the user O(login).
      - With V(absent), every link with the peer is dropped. A peer that still knows a password of this node soon dials again, so give
        O(login) and no O(address) to take the password away as well.
    type: str
    choices: [present, absent]
    default: present
  public_key:
    description: Public key of the peer.
    type: str
    required: true
  address:
    description: Where the peer is dialled, as C(IP:PORT) or C([IPv6]:PORT). Names are not understood by cjdns.
    type: str
  password:
    description:
      - With O(address), the password that the peer gave to this node; without, the one that this node gives to the peer.
      - It is required with O(state=present).
      - The daemon does not tell passwords, so that of a user that is listed already, or of a peer that is being dialled already, is not
        compared. To change it, use O(state=absent) first.
    type: str
  login:
    description:
      - With O(address), the login that the peer gave to this node, if it did.
      - Without O(address), the user of this node's own list to which the password belongs. It is required with O(state=present).
    type: str
  name:
    description: Name for a peer that is dialled, for people.
    type: str
  wait:
    description:
      - How many seconds to wait for the link to be established. When it is not by then, the module fails, and the link goes on being tried.
      - With V(0) the module does not look whether the peer answers.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: In check mode the module does not wait.
  diff_mode:
    support: full
    description: The links with the peer, without their states.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Dial a peer, and see that it answers
  vdloo.mesh.cjdns_peer:
    public_key: f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k
    address: 192.0.2.1:4321
    password: "{{ vps1_password }}"
    name: vps1
    wait: 20

- name: Let a peer in
  vdloo.mesh.cjdns_peer:
    public_key: u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k
    login: laptop1
    password: "{{ laptop1_password }}"

- name: Throw a peer out, and take its password away
  vdloo.mesh.cjdns_peer:
    public_key: u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k
    login: laptop1
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
  sample:
    - dialled 192.0.2.1:4321 over interface 0
link_state:
  description: State of the best link with the peer at the end, in the words of cjdns; empty when there is none.
  type: str
  returned: always
  sample: ESTABLISHED
"""

import ipaddress
import json
import time
from typing import Callable, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import access, admin, conf, keys, transport

POLL_S = 0.25


class Step(NamedTuple):
    """One change: what it is, in words, and the call that makes it."""

    words: str
    run: Callable


class Plan(NamedTuple):
    """The changes, and what a diff shows before and after them."""

    steps: list[Step]
    before: dict
    after: dict


def problems(params: dict) -> list[str]:
    """List what is wrong with the options, before the daemon is asked for anything."""
    found = []
    try:
        keys.validate_public_key(params["public_key"])
    except keys.KeyFormatError as error:
        found.append(f"public_key {params['public_key']!r} cannot be used: {error}")
    if params["address"]:
        try:
            conf.split_endpoint(params["address"])
        except conf.ConfError as error:
            found.append(f"address {params['address']!r} cannot be used: {error}")
    elif params["state"] == "present" and not params["login"]:
        found.append("login is missing: set it to let a peer in, or set address to dial one")
    if params["state"] == "present" and not params["password"]:
        found.append("password is missing: a peer is neither dialled nor let in without one")
    found += [f"{option} {conf.UNREADABLE}" for option in ("password", "login", "name") if not conf.is_readable(params[option] or "")]
    return found


def family_of(bind: str) -> int:
    """4 or 6 for an interface that is bound to such an address, 0 for one that is bound to a device."""
    host = bind.rpartition(":")[0]
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") else host).version
    except ValueError:
        return 0


def is_same_endpoint(told: str, wished: str) -> bool:
    """Whether the daemon dials the wished endpoint; also when it is too old to tell what it dials."""
    try:
        told_version, told_host, told_port = conf.split_endpoint(told)
    except conf.ConfError:
        return told in ("", wished)
    version, host, port = conf.split_endpoint(wished)
    return (told_version, told_port, ipaddress.ip_address(told_host)) == (version, port, ipaddress.ip_address(host))


def shown(links: list[dict]) -> list[str]:
    """The links as a diff shows them."""
    return sorted(
        f"{'accepted from' if link['incoming'] else 'dialled'} {link['endpoint'] or 'an address that is not told'}" for link in links
    )


def drop(client: admin.Client, public_key: str, count: int) -> None:
    """Drop every link with a key; some releases drop one at a time."""
    for _link in range(count):
        if not client.disconnect(public_key):
            return


def links_with(client: admin.Client, public_key: str) -> list[dict]:
    return [peer for peer in client.peers() if peer["public_key"] == public_key]


def best_state(links: list[dict]) -> str:
    """The state of the best link; of those that are not established, a dialled one tells most."""
    ranked = sorted(links, key=lambda link: (link["state"] != admin.ESTABLISHED, link["incoming"], link["silent_ms"]))
    return ranked[0]["state"] if ranked else ""


def interface_for(client: admin.Client, address: str) -> int:
    """The number of the interface over which an address can be dialled."""
    family = conf.split_endpoint(address)[0]
    try:
        interfaces = client.interfaces()
    except admin.AdminError as error:
        if error.reason.startswith(transport.NO_FUNCTION):
            raise conf.ConfError("the daemon cannot tell its interfaces: to dial a peer, cjdns 21.2 or later is needed") from None
        raise
    for interface in interfaces:
        if family_of(interface["bind"]) == family:
            return interface["number"]
    raise conf.ConfError(
        f"{address} is IPv{family}, but the daemon has no UDP interface for it: add one to interfaces.UDPInterface in cjdns_config"
    )


def plan_dial(client: admin.Client, params: dict, links: list[dict]) -> Plan:
    """Dial a peer, unless it is linked or that is being tried."""
    address, public_key, before = params["address"], params["public_key"], {"links": shown(links)}
    dialled = [link for link in links if not link["incoming"]]
    if any(link["state"] == admin.ESTABLISHED for link in links) or any(is_same_endpoint(link["endpoint"], address) for link in dialled):
        return Plan([], before, before)
    number = interface_for(client, address)
    wished = (address, public_key, params["password"], params["login"] or "", params["name"] or "", number)
    client.check(admin.DIAL, admin.dial_arguments(*wished), auth=True)
    steps, kept = [], links
    if dialled:
        given_up = ", ".join(sorted(link["endpoint"] for link in dialled))
        steps.append(Step(f"gave up dialling {given_up}", lambda: drop(client, public_key, len(links))))
        kept = []
    steps.append(Step(f"dialled {address} over interface {number}", lambda: client.connect(*wished)))
    return Plan(steps, before, {"links": sorted([*shown(kept), f"dialled {address}"])})


def plan_accept(client: admin.Client, params: dict) -> Plan:
    """Let a peer in."""
    login, password = params["login"], params["password"]
    client.check(admin.AUTHORIZE, {"user": login, "password": password}, auth=True)
    if login in client.users():
        return Plan([], {"users": [login]}, {"users": [login]})
    return Plan([Step(f"let {login} in", lambda: client.authorize(login, password))], {"users": []}, {"users": [login]})


def plan_absent(client: admin.Client, params: dict, links: list[dict]) -> Plan:
    """Take the password away first, or the peer would be back at once."""
    # With an address, the login is one of the peer's list, not of ours.
    login = None if params["address"] else params["login"]
    users = [login] if login and login in client.users() else []
    steps = [Step(f"took the password of {login} away", lambda: client.unauthorize(login))] if users else []
    if links:
        steps.append(Step(f"dropped: {', '.join(shown(links))}", lambda: drop(client, params["public_key"], len(links))))
    return Plan(steps, {"links": shown(links), "users": users}, {"links": [], "users": []})


def plan_of(client: admin.Client, params: dict) -> Plan:
    """Compare what is with what is wished; raises admin.AdminError, or conf.ConfError for a wish that cannot be."""
    if client.node()["public_key"] == params["public_key"]:
        raise conf.ConfError("public_key is that of the node itself: a node cannot be its own peer")
    links = links_with(client, params["public_key"])
    if params["state"] == "absent":
        return plan_absent(client, params, links)
    return plan_dial(client, params, links) if params["address"] else plan_accept(client, params)


def await_link(client: admin.Client, public_key: str, seconds: int) -> str:
    """The state of the link with a peer, as soon as it is established or when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        state = best_state(links_with(client, public_key))
        if state == admin.ESTABLISHED or time.monotonic() >= deadline:
            return state
        time.sleep(POLL_S)


def not_established(params: dict, state: str) -> str:
    """What to say of a link that was waited for in vain."""
    seen = f"its last state was {state}" if state else "there is none"
    told = f"The link with {params['name'] or params['public_key']} was not established within {params['wait']} s: {seen}. "
    if not params["address"]:
        return told + f"See that the peer dials this node, with the password of {params['login']}, and that the port is open."
    return told + (
        f"See that {params['address']} is the peer's and is open, and that public_key, password and login are those that the peer gave. "
        "It goes on being dialled with what it was first dialled with: to dial with another password, use state=absent first."
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            access.ARGUMENTS,
            state={"type": "str", "choices": ["present", "absent"], "default": "present"},
            public_key={"type": "str", "required": True, "no_log": False},
            address={"type": "str"},
            password={"type": "str", "no_log": True},
            login={"type": "str"},
            name={"type": "str"},
            wait={"type": "int", "default": 0},
        ),
        supports_check_mode=True,
    )
    params = module.params
    wrong = problems(params)
    if wrong:
        module.fail_json(msg="; ".join(wrong))
    params["public_key"] = params["public_key"].lower()
    result = {"changed": False, "actions": [], "link_state": ""}
    try:
        client = access.client(params)
        if not client.password:
            module.fail_json(
                msg=f"The admin password of cjdns is not known: {params['config_path']} is not there, cannot be read, or holds none. "
                "Run the task as root, or set admin_password",
                **result,
            )
        plan = plan_of(client, params)
        for step in plan.steps:
            if not module.check_mode:
                step.run()
            result.update(changed=True, actions=[*result["actions"], step.words])
        wait = params["wait"] if params["state"] == "present" and not module.check_mode else 0
        result["link_state"] = await_link(client, params["public_key"], wait)
    except conf.ConfError as error:
        module.fail_json(msg=str(error), **result)
    except admin.AdminError as error:
        done = f"\nDone before that: {'; '.join(result['actions'])}" if result["actions"] else ""
        module.fail_json(msg=access.explain(error, params["unit"]) + done, **result)
    result["diff"] = {part: json.dumps(content, indent=2) + "\n" for part, content in (("before", plan.before), ("after", plan.after))}
    if wait > 0 and result["link_state"] != admin.ESTABLISHED:
        module.fail_json(msg=not_established(params, result["link_state"]), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
