#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_preflight
short_description: Check that a node can run a Consul agent as asked, and tell what is there
version_added: "1.0.0"
description:
  - Checks what the variables of the role C(consul) ask for, by itself and against the node, and fails with all problems at once.
    Each names the variable and the host and says what to do.
  - Returns what the role needs to know of the node, so that one remote call is enough. It changes nothing.
  - It is private to the role, which documents the variables.
options:
  host:
    description: Name of the host, for the messages.
    type: str
    required: true
  method:
    description: How the binary is to be installed.
    type: str
    choices: [release, package, binary]
    required: true
  version:
    description: Version to install with O(method=release).
    type: str
    required: true
  release_checksums:
    description: SHA-256 of the vendor's archive of that version, by the vendor's name of the architecture.
    type: dict
    default: {}
  binary_src:
    description: Source of the binary with O(method=binary).
    type: str
    default: ""
  binary_checksum:
    description: SHA-256 of that source.
    type: str
    default: ""
  binary:
    description: Path of the binary on the node.
    type: path
    required: true
  stamp:
    description: File that tells where the installed binary came from.
    type: path
    required: true
  marker:
    description: File that tells that the node has seen a leader; it holds the name of the datacenter.
    type: path
    required: true
  unit:
    description: Name of the systemd unit.
    type: str
    default: consul.service
  server:
    description: Whether the agent is a server.
    type: bool
    required: true
  bootstrap_expect:
    description: Number of servers to wait for before the first election; 0 when this node does not bootstrap.
    type: int
    default: 0
  bind_address:
    description: Address of the node in the mesh.
    type: str
    required: true
  retry_join:
    description: Addresses to join.
    type: list
    elements: str
    default: []
  gossip_key:
    description: Key of the gossip, base64.
    type: str
    required: true
  datacenter:
    description: Name of the datacenter.
    type: str
    required: true
  node_name:
    description: Name of the node.
    type: str
    required: true
  data_dir:
    description: The agent's data directory.
    type: str
    required: true
  config_dir:
    description: The agent's configuration directory.
    type: str
    required: true
  config:
    description: The user's own configuration keys.
    type: dict
    default: {}
  ports:
    description: The ports that the agent will use, by Consul's name for them. C(http) and C(dns) are on loopback.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: The module only looks.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Check what was asked for
  vdloo.mesh.consul_preflight:
    host: "{{ inventory_hostname }}"
    method: release
    version: 1.21.5
    binary: /usr/local/bin/consul
    stamp: /var/lib/vdloo-mesh/consul-binary.json
    marker: /var/lib/vdloo-mesh/consul-bootstrapped
    server: true
    bind_address: fc12::1
    retry_join: [fc34::2]
    gossip_key: "{{ consul_gossip_key }}"
    datacenter: mesh
    node_name: "{{ inventory_hostname }}"
    data_dir: /var/lib/consul
    config_dir: /etc/consul.d
    ports: {http: 8500, dns: 8600, server: 8300, serf_lan: 8301}
  register: look
"""

RETURN = r"""
install_needed:
  description: Whether the binary that was asked for is missing.
  type: bool
  returned: success
binary:
  description: The installed binary; C(version) is empty when there is none that runs.
  type: dict
  returned: success
  sample: {path: /usr/local/bin/consul, version: 1.21.5}
release:
  description: The vendor's archive for this node.
  type: dict
  returned: with O(method=release)
  sample: {file: consul_1.21.5_linux_amd64.zip, checksum: 2dfb63fc...}
architecture:
  description: The node's architecture by the vendor's name for it; empty when the vendor has none.
  type: str
  returned: success
  sample: amd64
package_manager:
  description: The package manager that can install Consul; empty when it is installed or another method was asked for.
  type: str
  returned: success
  sample: apt
user_exists:
  description: Whether the system user C(consul) exists.
  type: bool
  returned: success
unit:
  description: State of the unit.
  type: dict
  returned: success
  sample: {known: true, active: true, stale: false}
bootstrapped:
  description: Name of the datacenter in which this node has seen a leader; empty when it never has.
  type: str
  returned: success
agent:
  description: What the running agent says of itself; empty when none answers.
  type: dict
  returned: success
  sample: {node: web, server: true, leader: "[fc12::1]:8300", bootstrap_expect: 0}
"""

import json
import os
import pwd
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import ports
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent, binary, checks, unit

LOOPBACK_PORTS = ("http", "dns")
# Port name: protocols.
PROTOCOLS = {"http": ("tcp",), "dns": ("tcp", "udp"), "serf_lan": ("tcp", "udp"), "server": ("tcp",)}

PACKAGE_LISTS = (
    ("apt", ["apt-cache", "policy", "consul"], r"Candidate: (?:\d+:)?(\d[^\s+~-]*)"),
    ("pacman", ["pacman", "-Si", "consul"], r"Version\s*: (?:\d+:)?(\d[^\s+~-]*)"),
)


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except FileNotFoundError:
        return ""


def taken_ports(options: dict, own_uid: int | None) -> list[dict]:
    """List the sockets of others on the ports and addresses that the agent needs."""
    wanted = []
    for name, port in options["ports"].items():
        if name == "server" and not options["server"]:
            continue
        address = "127.0.0.1" if name in LOOPBACK_PORTS else options["bind_address"]
        wanted += [(protocol, address, port) for protocol in PROTOCOLS[name]]
    found = {
        listener
        for listener in ports.listeners()
        for protocol, address, port in wanted
        if listener.protocol == protocol and listener.uid != own_uid and ports.clashes(listener, address, port)
    }
    holders = {inode: holder for holder in ports.holders({listener.inode for listener in found}) for inode in holder.inodes}
    return [
        {
            "protocol": listener.protocol,
            "port": listener.port,
            "address": listener.address,
            "process": describe_holder(listener, holders.get(listener.inode)),
        }
        for listener in sorted(found)
    ]


def describe_holder(listener: ports.Listener, holder: ports.Holder | None) -> str:
    if holder:
        return f"{holder.name} (pid {holder.pid})"
    try:
        name = pwd.getpwuid(listener.uid).pw_name
    except KeyError:
        name = str(listener.uid)
    return f"a process of the user {name}"


def keyring_state(data_dir: str, gossip_key: str) -> str:
    """Compare the key with those that the agent keeps in its data: none, same or other."""
    text = read_text(os.path.join(data_dir, "serf", "local.keyring"))
    if not text:
        return "none"
    try:
        keys = json.loads(text)
    except ValueError:
        return "none"
    return "same" if gossip_key in keys else "other"


def os_name(text: str) -> str:
    """Read a name for people out of os-release."""
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
    return match[1] if match else "this system"


def package_candidate(module: AnsibleModule) -> tuple[str, str]:
    """Return the package manager, and the version of Consul that its lists offer; empty when there is none."""
    for manager, command, pattern in PACKAGE_LISTS:
        if module.get_bin_path(command[0]):
            _rc, out, _err = module.run_command(command, environ_update={"LC_ALL": "C"})
            match = re.search(pattern, out)
            return manager, match[1] if match else ""
    return "", ""


def user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def address_missing(module: AnsibleModule, ip: str | None, address: str) -> bool:
    """Tell whether an address is on no interface. Before a run has changed anything, that is no news in check mode."""
    if ip is None or module.check_mode:
        return False
    rc, out, _err = module.run_command([ip, "-o", "addr", "show", "to", address])
    return rc == 0 and not out.strip()


def look(module: AnsibleModule) -> dict:
    """Gather what the checks and the role need to know of the node."""
    options = module.params
    architecture = os.uname().machine
    systemd = os.path.isdir("/run/systemd/system")
    properties = unit.show(module.run_command, options["unit"]) if systemd else {}
    own_uid = unit.main_uid(properties)
    try:
        version = binary.run_version(options["binary"]) if os.path.isfile(options["binary"]) else ""
    except binary.BinaryError:
        version = ""
    running = agent.find(own_uid, options["ports"]["http"])[1] if own_uid is not None else {}
    manager, candidate = package_candidate(module) if options["method"] == "package" and not version else ("", "")
    ip = module.get_bin_path("ip", opt_dirs=["/sbin", "/usr/sbin"])
    return {
        "systemd": systemd,
        "init": read_text("/proc/1/comm") or "unknown",
        "has_ip": ip is not None,
        "os": os_name(read_text("/etc/os-release")),
        "architecture": architecture,
        "release_architecture": binary.RELEASE_ARCHITECTURES.get(architecture, ""),
        "binary": {"path": options["binary"], "version": version},
        "package_manager": manager,
        "package_candidate": candidate,
        "taken": taken_ports(options, own_uid),
        "address_missing": address_missing(module, ip, options["bind_address"]),
        "keyring": keyring_state(options["data_dir"], options["gossip_key"]),
        "agent": running,
        "marker_path": options["marker_path"],
        "user_exists": user_exists("consul"),
        "unit": {
            "known": properties.get("LoadState") == "loaded",
            "active": properties.get("ActiveState") in ("active", "reloading"),
            "stale": properties.get("NeedDaemonReload") == "yes",
        },
    }


def refuse(module: AnsibleModule, problems: list[str]) -> None:
    """Fail with all problems at once, if there are any."""
    if problems:
        module.fail_json(msg="\n".join(f"{problem} (host {module.params['host']})" for problem in problems))


def install_needed(options: dict, node: dict) -> tuple[bool, dict]:
    """Tell whether a binary must be installed, and for a release which archive."""
    if options["method"] == "package":
        return not node["binary"]["version"], {}
    release = {}
    checksum = options["binary_checksum"]
    if options["method"] == "release":
        architecture = node["release_architecture"]
        checksum = options["release_checksums"][architecture]
        release = {"file": binary.release_file(options["version"], architecture), "checksum": checksum.split(":")[-1]}
    version = node["binary"]["version"]
    if not version or (options["method"] == "release" and version != options["version"]):
        return True, release
    return not binary.is_installed(options["binary"], binary.read_stamp(options["stamp"]), checksum.split(":")[-1]), release


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "method": {"type": "str", "required": True, "choices": ["release", "package", "binary"]},
            "version": {"type": "str", "required": True},
            "release_checksums": {"type": "dict", "default": {}},
            "binary_src": {"type": "str", "default": ""},
            "binary_checksum": {"type": "str", "default": ""},
            "binary": {"type": "path", "required": True},
            "stamp": {"type": "path", "required": True},
            "marker": {"type": "path", "required": True},
            "unit": {"type": "str", "default": "consul.service"},
            "server": {"type": "bool", "required": True},
            "bootstrap_expect": {"type": "int", "default": 0},
            "bind_address": {"type": "str", "required": True},
            "retry_join": {"type": "list", "elements": "str", "default": []},
            "gossip_key": {"type": "str", "required": True, "no_log": True},
            "datacenter": {"type": "str", "required": True},
            "node_name": {"type": "str", "required": True},
            "data_dir": {"type": "str", "required": True},
            "config_dir": {"type": "str", "required": True},
            "config": {"type": "dict", "default": {}},
            "ports": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        options["ports"] = {name: int(options["ports"][name]) for name in PROTOCOLS}
    except (KeyError, TypeError, ValueError):
        module.fail_json(msg=f"consul_config.ports: http, dns, server and serf_lan must be numbers (host {options['host']})")
    options["marker_path"] = options["marker"]
    options["marker"] = read_text(options["marker_path"])

    refuse(module, checks.of_input(options))
    node = look(module)
    refuse(module, checks.of_node(options, node))
    needed, release = install_needed(options, node)
    module.exit_json(
        changed=False,
        install_needed=needed,
        release=release,
        bootstrapped=options["marker"],
        architecture=node["release_architecture"],
        **{key: node[key] for key in ("binary", "package_manager", "user_exists", "unit", "agent")},
    )


if __name__ == "__main__":
    main()
