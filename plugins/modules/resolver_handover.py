#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: resolver_handover
short_description: Put a local dnsmasq in front of a host's own resolver, or take it away
version_added: "1.0.0"
description:
  - Points the host at a dnsmasq on a loopback address, so that names of Consul resolve and all others still do.
  - The whole change is made by one process on the host. It proves dnsmasq, saves what the host has, switches in one step, looks
    names up in a fresh process, and puts everything back if a name is lost. A connection that breaks in the middle does no harm.
  - Knows who keeps C(/etc/resolv.conf). With systemd-resolved only the names of O(domains) are routed to dnsmasq, and C(/etc/resolv.conf)
    stays as it is. NetworkManager is told to leave C(/etc/resolv.conf) alone, and resolvconf goes on with its own file; dnsmasq reads
    the file in which they keep the name servers. In all other cases dnsmasq reads a copy of the host's name servers.
  - A C(/etc/resolv.conf) that is a mount of its own, as in a container, is written in place.
options:
  state:
    description:
      - V(examined) only looks, and fails if something stands in the way of a hand-over.
      - V(present) hands over, and proves that names resolve.
      - V(absent) puts the host's own resolver back.
    type: str
    choices: [examined, present, absent]
    default: present
  managed:
    description: Whether the host's resolver may be changed at all. V(false) gives it back if it was handed over before.
    type: bool
    default: true
  unit:
    description: The systemd unit that runs dnsmasq.
    type: str
    default: dnsmasq-mesh.service
  addresses:
    description: Loopback addresses on which dnsmasq listens. The host is pointed at the first.
    type: list
    elements: str
    default: [127.0.0.1, "::1"]
  spare:
    description: Loopback address on which somebody stands in for dnsmasq while that is down. The host asks it second. Empty for nobody.
    type: str
    default: ""
  domains:
    description: Domains that are Consul's. A network in CIDR form stands for its reverse zone.
    type: list
    elements: str
    default: [consul]
  names_unit:
    description: The systemd unit that answers dnsmasq for O(domains).
    type: str
    default: mesh-names.service
  names_listen:
    description: Where that unit listens, as C(ADDRESS#PORT). With O(state=examined) nobody else may have the port; empty, it is not looked at.
    type: str
    default: ""
  search:
    description: Search domains for the host, after its own.
    type: list
    elements: str
    default: []
  options:
    description: Options for C(/etc/resolv.conf). An option that the host's own file sets wins.
    type: list
    elements: str
    default: []
  probe_names:
    description: Names to look up before and after. Those that resolved before have to resolve after.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows the file that makes the host ask dnsmasq.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: See whether the host's resolver can be handed over
  vdloo.mesh.resolver_handover:
    state: examined

- name: Let dnsmasq answer on this host
  vdloo.mesh.resolver_handover:
    domains: [consul, "fc00::/8"]
    options: ["timeout:1", "attempts:2"]
    probe_names: [example.org]

- name: Put the host's own resolver back
  vdloo.mesh.resolver_handover:
    state: absent
"""

RETURN = r"""
manager:
  description: Who keeps C(/etc/resolv.conf); V(static) when nobody that the module knows does.
  type: str
  returned: always
  sample: resolved
nameservers:
  description: The host's own name servers.
  type: list
  elements: str
  returned: always
  sample: [192.0.2.53]
handed_over:
  description: Whether the host asked dnsmasq when the module ended.
  type: bool
  returned: always
resolves:
  description: The names of O(probe_names) that the host resolves through dnsmasq. None means that only dnsmasq itself could be proven.
  type: list
  elements: str
  returned: when O(state=present) and not in check mode
consul_answers:
  description: Whether the first of O(domains) is answered by Consul's DNS.
  type: bool
  returned: when O(state=present) and not in check mode
installed:
  description: Whether the dnsmasq program is on the host, where its packages put it.
  type: bool
  returned: always
active:
  description: Whether O(unit) runs.
  type: bool
  returned: always
names_active:
  description: Whether O(names_unit) runs.
  type: bool
  returned: always
python:
  description: The Python that ran the module, by a name that an upgrade of the system keeps where there is one.
  type: str
  returned: always
"""

import os
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import ports
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver.dns import zones
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver.handover import CONFIG, PROVEN_CONFIG, Handover
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver.host import RESOLV_CONF, ResolverError, nameservers

DNS_PORT = 53
# What is answered when there is no Consul behind: SERVFAIL and REFUSED.
NO_CONSUL = (2, 5)


def port_problem(resolver, address, port, unit, cure):
    """Say who holds a port that the unit is to have; an empty list when nobody else does."""
    if ports.is_free(address, port):
        return []
    inodes = {listener.inode for listener in ports.listeners() if ports.clashes(listener, address, port)}
    found = [holder for holder in ports.holders(inodes) if holder.unit != unit]
    if not found and resolver.active(unit):
        return []
    who = ", ".join(f"{holder.name} (pid {holder.pid}{holder.unit and ', ' + holder.unit})" for holder in found)
    who = who or "a process that cannot be seen from here, as one outside of a container"
    return [f"port {port} of {address} is held by {who}: {cure}"]


def examine(resolver, names_unit, names_listen):
    """Fail with all that stands in the way of a hand-over, before anything is changed."""
    problems = []
    cure = "stop that, let it leave this address, or set dnsmasq_listen_addresses to another address of 127.0.0.0/8"
    for address in resolver.settings["addresses"]:
        problems += port_problem(resolver, address, DNS_PORT, resolver.settings["unit"], cure)
    if resolver.settings["spare"]:
        cure = "stop that, let it leave this address, or set dnsmasq_spare_address to another address of 127.0.0.0/8"
        problems += port_problem(resolver, resolver.settings["spare"], DNS_PORT, names_unit, cure)
    if names_listen:
        address, dummy, port = names_listen.partition("#")
        problems += port_problem(resolver, address, int(port), names_unit, "stop that, or set dnsmasq_names_port to a free port")
    obstacle = resolver.obstacle() if resolver.settings["managed"] else ""
    if obstacle:
        problems.append(f"{RESOLV_CONF} {obstacle}: change that, or set dnsmasq_resolver_managed to false")
    if problems:
        raise ResolverError("; ".join(problems))


def lasting_python():
    """Return this Python by the name that outlives an upgrade of the distribution: python3, not python3.11."""
    plain = os.path.join(os.path.dirname(sys.executable), "python3")
    return plain if os.path.realpath(plain) == os.path.realpath(sys.executable) else sys.executable


def own_nameservers(resolver):
    """Return the host's own name servers as they are now."""
    servers = nameservers(resolver.source(resolver.detect()))
    return [server for server in servers if server not in resolver.known]


def hand_over(resolver, config_can_go_back):
    """Hand over and prove it. On failure go back to the last configuration that was good, or to the host's own resolver."""
    try:
        with resolver.locked():
            changed = resolver.learn()
            changed = resolver.take() or changed
            resolving = resolver.check()
            resolver.prove()
    except (ResolverError, OSError) as exc:
        message = str(exc)
    else:
        return changed, resolving
    if config_can_go_back:
        resolver.copy(PROVEN_CONFIG, CONFIG)
        with resolver.locked():
            # The unit's own follow-up hands over again, with the settings as they are on disk.
            resolver.settings["managed"] = True
            resolver.store()
        code, output = resolver.outside.run("systemctl", "restart", resolver.settings["unit"])
        if code == 0 and resolver.handed_over():
            raise ResolverError(f"{message}; the former configuration of dnsmasq is back and serves")
        message += f"; the former configuration of dnsmasq did not help either ({output or 'it lost names too'})"
    with resolver.locked():
        resolver.give_back()
    raise ResolverError(f"{message}; the host has its own resolver")


def consul_answers(resolver):
    """Whether Consul's DNS answers, through all that is in front of it."""
    answer = resolver.outside.ask(resolver.address, resolver.settings["domains"][0], qtype=6, timeout=1.0)
    return answer is not None and answer[0] not in NO_CONSUL


def run(module, resolver):
    """Do what was asked for and return the results."""
    state, managed = module.params["state"], module.params["managed"]
    path, before, after = resolver.wanted()
    result = {
        "manager": resolver.detect(),
        "nameservers": own_nameservers(resolver),
        "installed": os.access("/usr/sbin/dnsmasq", os.X_OK),
        "active": resolver.active(resolver.settings["unit"]),
        "names_active": resolver.active(module.params["names_unit"]),
        "python": lasting_python(),
        "changed": False,
    }
    had = resolver.handed_over()
    if state == "examined":
        examine(resolver, module.params["names_unit"], module.params["names_listen"])
    elif state == "present" and managed:
        result["diff"] = {"before_header": path, "after_header": path, "before": before, "after": after}
        if module.check_mode:
            result["changed"] = not had or before != after
        else:
            can_go_back = os.path.exists(resolver.path(PROVEN_CONFIG)) and not resolver.same(CONFIG, PROVEN_CONFIG)
            result["changed"], result["resolves"] = hand_over(resolver, can_go_back)
            result["consul_answers"] = consul_answers(resolver)
    elif state == "present" and not module.check_mode:
        with resolver.locked():
            given_back = resolver.give_back()
            result["changed"] = resolver.learn() or given_back
            resolver.wait_for_dnsmasq()
        result["resolves"] = sorted(name for name in resolver.settings["probe_names"] if resolver.knows(resolver.address, name))
        result["consul_answers"] = consul_answers(resolver)
    elif module.check_mode:
        result["changed"] = had
    else:
        with resolver.locked():
            result["changed"] = resolver.give_back()
    result["handed_over"] = had if module.check_mode else resolver.handed_over()
    return result


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["examined", "present", "absent"], "default": "present"},
            "managed": {"type": "bool", "default": True},
            "unit": {"type": "str", "default": "dnsmasq-mesh.service"},
            "addresses": {"type": "list", "elements": "str", "default": ["127.0.0.1", "::1"]},
            "spare": {"type": "str", "default": ""},
            "domains": {"type": "list", "elements": "str", "default": ["consul"]},
            "names_unit": {"type": "str", "default": "mesh-names.service"},
            "names_listen": {"type": "str", "default": ""},
            "search": {"type": "list", "elements": "str", "default": []},
            "options": {"type": "list", "elements": "str", "default": []},
            "probe_names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        settings = {key: module.params[key] for key in ("managed", "unit", "addresses", "spare", "options", "search", "probe_names")}
        settings["domains"] = zones(module.params["domains"])
        # To put things back, what the hand-over noted is the truth.
        resolver = Handover(None if module.params["state"] == "absent" else settings)
        result = run(module, resolver)
    except (ResolverError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
