#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cjdns_overlay_info
short_description: Wait until the overlay address of a node is up, or tell why it is not
version_added: "1.0.0"
description:
  - Waits until the service runs and the address is on a TUN interface and usable.
  - cjdns goes on running without an address when it cannot make its interface, so a running service alone proves nothing.
  - When the address does not come up, the module fails with the reason and the last lines of the service's log.
options:
  address:
    description: Overlay address of the node.
    type: str
    required: true
  unit:
    description: Name of the unit that runs cjdns.
    type: str
    default: cjdns.service
  timeout:
    description: How many seconds to wait.
    type: int
    default: 30
  config_path:
    description: Configuration file of cjdns; its secrets are masked in what the module shows of the log.
    type: path
    default: /etc/cjdroute.conf
attributes:
  check_mode:
    support: full
    description: In check mode the module looks once and does not fail.
  diff_mode:
    support: none
    description: The module changes nothing.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Wait for the overlay address
  vdloo.mesh.cjdns_overlay_info:
    address: fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1
"""

RETURN = r"""
up:
  description: Whether the address is up.
  type: bool
  returned: always
interface:
  description: TUN interface that has the address; empty when none has.
  type: str
  returned: always
  sample: tun0
"""

import ipaddress
import json
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import systemd
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, identity

POLL_S = 0.25
# A service that died so often while we waited will not come up by more waiting.
DEATHS_ENOUGH = 3
LOG_LINES = 20
FLAG_DAD_FAILED = 0x08
FLAG_TENTATIVE = 0x40


def usable_interface(table: str, address: str) -> str:
    """Find the interface that has the address, in the text of /proc/net/if_inet6; empty when none has it ready for use."""
    wanted = ipaddress.IPv6Address(address).packed.hex()
    for line in table.splitlines():
        number, _index, _prefix, _scope, flags, name = line.split()
        if number == wanted and not int(flags, 16) & (FLAG_TENTATIVE | FLAG_DAD_FAILED):
            return name
    return ""


def read_or_empty(path: str) -> str:
    """Read a small file of the system; empty when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def is_tun(interface: str) -> bool:
    """Whether an interface is a TUN interface."""
    return bool(interface) and os.path.exists(f"/sys/class/net/{interface}/tun_flags")


def unit_state(module: AnsibleModule, unit: str) -> dict[str, str]:
    """Ask systemd for the state of the unit."""
    try:
        return systemd.show([unit], ("ActiveState", "SubState", "ExecMainStatus", "NRestarts"), module.run_command)[unit]
    except systemd.SystemdError as error:
        module.fail_json(msg=str(error))


def config_secrets(path: str) -> set[str]:
    """The secrets of the installed configuration, to be masked in the log."""
    try:
        return conf.secrets(json.loads(conf.strip_comments(identity.read_text(path) or "{}")))
    except (ValueError, identity.IdentityError):
        return set()


def reasons(state: dict[str, str], deaths: int, interface: str) -> list[str]:
    """What can be seen from outside the service of why the address is not up."""
    found = []
    if deaths > 0:
        found.append(f"the service ended {deaths} time{'s' if deaths > 1 else ''} while it was waited for")
    elif state.get("ActiveState") != "active":
        found.append(
            f"the service is {state.get('ActiveState')} ({state.get('SubState')}), its last exit code was {state.get('ExecMainStatus')}"
        )
    if not os.path.exists("/dev/net/tun"):
        found.append("/dev/net/tun is missing")
    disabled = read_or_empty("/proc/sys/net/ipv6/conf/default/disable_ipv6").strip()
    if disabled != "0":
        found.append("IPv6 is disabled for new interfaces (sysctl net.ipv6.conf.default.disable_ipv6), or the kernel runs without it")
    if interface and not is_tun(interface):
        found.append(f"the address is on {interface}, which is not a TUN interface")
    return found or ["the service runs, but no interface has the address"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "unit": {"type": "str", "default": "cjdns.service"},
            "timeout": {"type": "int", "default": 30},
            "config_path": {"type": "path", "default": "/etc/cjdroute.conf"},
        },
        supports_check_mode=True,
    )
    address, unit, timeout = module.params["address"], module.params["unit"], module.params["timeout"]
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        module.fail_json(msg=f"address {address!r} is not an IPv6 address")

    deaths_before = int(unit_state(module, unit).get("NRestarts") or 0)
    deadline = time.monotonic() + (0 if module.check_mode else timeout)
    while True:
        interface = usable_interface(read_or_empty("/proc/net/if_inet6"), address)
        state = unit_state(module, unit)
        if is_tun(interface) and state.get("ActiveState") == "active":
            module.exit_json(changed=False, up=True, interface=interface)
        deaths = int(state.get("NRestarts") or 0) - deaths_before
        if time.monotonic() >= deadline or deaths >= DEATHS_ENOUGH or state.get("ActiveState") == "failed":
            break
        time.sleep(POLL_S)
    if module.check_mode:
        module.exit_json(changed=False, up=False, interface="")

    command = ["journalctl", "--unit", unit, "--lines", str(LOG_LINES), "--no-pager", "--output", "cat"]
    _rc, log, _err = module.run_command(command)
    log = conf.mask_text(log.strip(), config_secrets(module.params["config_path"])) or "(nothing)"
    module.fail_json(
        msg=f"The overlay address {address} did not come up: {'; '.join(reasons(state, deaths, interface))}.\nThe last lines of {unit}:\n{log}",
        up=False,
        interface=interface,
    )


if __name__ == "__main__":
    main()
