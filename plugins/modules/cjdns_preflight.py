#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cjdns_preflight
short_description: Check that cjdns can be set up on a node, before anything is changed
version_added: "1.0.0"
description:
  - Looks at the node and at the wishes of the P(vdloo.mesh.cjdns#role) role, and fails with everything that stands in the way.
  - Also tells what the role needs to know of the node, so that it needs no other facts.
  - It changes nothing.
options:
  install_method:
    description: How cjdns is to be installed.
    type: str
    choices: [package, source, binary]
    required: true
  package_families:
    description: Families of distributions that have a package of cjdns.
    type: list
    elements: str
    default: []
  source_families:
    description: Families of distributions on which the role knows how to build cjdns.
    type: list
    elements: str
    default: []
  binary_src:
    description: With O(install_method=binary), where the binary comes from.
    type: str
    default: ''
  binary_checksum:
    description: With O(install_method=binary), the checksum of the binary as C(sha256:HEX).
    type: str
    default: ''
  source_checksum:
    description: With O(install_method=source), the checksum of the archive as C(sha256:HEX).
    type: str
    default: ''
  files:
    description: Files whose SHA-256 the role wants to know.
    type: list
    elements: path
    default: []
  unit:
    description: Name of the unit that runs cjdns; the ports that it holds count as free.
    type: str
    default: cjdns.service
  port:
    description: UDP port on which peers are to reach the node.
    type: int
    required: true
  admin_port:
    description: UDP port of the admin interface on 127.0.0.1.
    type: int
    required: true
  peers:
    description: Peers that the node is to dial.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the peer.
        type: str
        required: true
      address:
        description: Where the peer is dialled, as C(IP:PORT) or C([IPv6]:PORT).
        type: str
        required: true
      public_key:
        description: Public key of the peer.
        type: str
        required: true
      password:
        description: Password that the peer gave to this node.
        type: str
      login:
        description: Login that the peer gave to this node.
        type: str
  config:
    description: The rest of the configuration, as JSON text.
    type: str
    default: '{}'
  identity_path:
    description: File with the identity of the node.
    type: path
    default: /etc/cjdns/identity.json
  config_path:
    description: Configuration file of cjdns.
    type: path
    default: /etc/cjdroute.conf
notes:
  - In check mode a missing C(/dev/net/tun) or disabled IPv6 is a warning, as another role of the same run may be the one to repair it.
attributes:
  check_mode:
    support: full
    description: The module only looks.
  diff_mode:
    support: none
    description: The module changes nothing.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Check that cjdns can be set up here
  vdloo.mesh.cjdns_preflight:
    install_method: package
    package_families: [Archlinux, Alpine]
    port: 4321
    admin_port: 11234
"""

RETURN = r"""
distribution:
  description: Name and version of the distribution.
  type: str
  returned: always
  sample: Debian GNU/Linux 12 (bookworm)
family:
  description: Family of the distribution, with the names that Ansible uses; empty when it is unknown.
  type: str
  returned: always
  sample: Debian
machine:
  description: Machine architecture, as C(uname -m) tells it.
  type: str
  returned: always
  sample: x86_64
sha256:
  description: SHA-256 by path of those O(files) that exist.
  type: dict
  returned: always
tools:
  description: Versions of the tools of a build that the node has (C(node), C(rustc), C(cargo)).
  type: dict
  returned: when O(install_method=source)
  sample: {node: 18.19.0}
unit_present:
  description: Whether the unit exists.
  type: bool
  returned: always
unit_changed:
  description: Whether the unit's file changed since systemd read it.
  type: bool
  returned: always
"""

import fcntl
import json
import os
import platform
import re
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import on_disk, ports, systemd
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, identity

# As Ansible names them. A distribution that is not here is looked for by what it says it is like.
FAMILIES = {
    "alpine": "Alpine",
    "postmarketos": "Alpine",
    "arch": "Archlinux",
    "archarm": "Archlinux",
    "manjaro": "Archlinux",
    "debian": "Debian",
    "raspbian": "Debian",
    "ubuntu": "Debian",
    "centos": "RedHat",
    "fedora": "RedHat",
    "rhel": "RedHat",
}
CAP_NET_ADMIN = 12
# From <linux/if_tun.h>: _IOR('T', 207, unsigned int); a few machines put the direction of an ioctl in other bits.
TUNGETFEATURES = 0x400454CF if platform.machine().startswith(("mips", "ppc", "sparc")) else 0x800454CF
# What a build finds, too.
BUILD_PATH = "/usr/local/bin:/usr/bin:/bin"


def parse_os_release(text: str) -> dict[str, str]:
    """Turn /etc/os-release into a dictionary."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def family_of(os_release: dict[str, str]) -> str:
    """The family of a distribution, by its own name or else by those that it is like; empty when unknown."""
    names = [os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()]
    return next((FAMILIES[name.lower()] for name in names if name.lower() in FAMILIES), "")


def read_or(path: str, default: str) -> str:
    """Read a small text file of the system that may be missing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return default


def port_problems(port: int, admin_port: int, unit: str) -> list[str]:
    """List which wanted ports are held by somebody else than our own service."""
    problems = []
    listening = ports.listeners(["udp"])
    for variable, address, wanted in (("cjdns_port", "::", port), ("cjdns_admin_port", "127.0.0.1", admin_port)):
        taken = {listener.inode for listener in listening if ports.clashes(listener, address, wanted)}
        holders = ports.holders(taken)
        strangers = [f"{holder.name} (pid {holder.pid})" for holder in holders if holder.unit != unit]
        if taken.difference(*(holder.inodes for holder in holders)):
            strangers.append("a process that cannot be seen from here")
        if strangers:
            problems.append(f"UDP port {wanted} is taken by {strangers[0]}: stop it, or set {variable} to another port")
    return problems


def tun_problems(path: str = "/dev/net/tun") -> list[str]:
    """List what is wrong with the device that makes TUN interfaces."""
    try:
        is_device = stat.S_ISCHR(os.stat(path).st_mode)
    except FileNotFoundError:
        return [f"{path} is missing: load the kernel module tun (modprobe tun); a container needs the device handed in (--device {path})"]
    if not is_device:
        return [f"{path} is not a character device: remove it and make it anew (mknod {path} c 10 200)"]
    try:
        descriptor = os.open(path, os.O_RDWR)
    except PermissionError:
        return [f"{path} cannot be opened (no permission): a container must be allowed the device (--device {path})"]
    except OSError as error:
        return [
            f"{path} cannot be opened ({os.strerror(error.errno or 0)}): load the kernel module tun (modprobe tun), on the host if this is a container"
        ]
    try:
        # Asks the driver for its features; a device of another driver does not know the question.
        fcntl.ioctl(descriptor, TUNGETFEATURES, bytes(4))
    except OSError:
        return [f"{path} is not the TUN device: remove it and make it anew (mknod {path} c 10 200)"]
    finally:
        os.close(descriptor)
    effective = re.search("^CapEff:\t([0-9a-f]+)$", read_or("/proc/self/status", ""), re.MULTILINE)
    if effective and not int(effective.group(1), 16) >> CAP_NET_ADMIN & 1:
        return ["network interfaces cannot be made here (no CAP_NET_ADMIN): a container needs --cap-add NET_ADMIN"]
    return []


def ipv6_problems(path: str = "/proc/sys/net/ipv6/conf/default/disable_ipv6") -> list[str]:
    """List what keeps new interfaces from having an IPv6 address."""
    value = read_or(path, "").strip()
    if value == "0":
        return []
    if value == "":
        return ["the kernel runs without IPv6: cjdns gives each node an IPv6 address, so boot without ipv6.disable=1"]
    return [
        "IPv6 is disabled for new interfaces: set the sysctls net.ipv6.conf.all.disable_ipv6 and net.ipv6.conf.default.disable_ipv6 to 0"
    ]


def method_problems(params: dict, family: str, distribution: str) -> list[str]:
    """List what the chosen way of installing lacks."""
    method = params["install_method"]
    possible = [
        name for name, families in (("package", params["package_families"]), ("source", params["source_families"])) if family in families
    ] + ["binary"]
    if method not in possible:
        what = "has no package of cjdns" if method == "package" else "is not one that the role can build cjdns on"
        return [f"{distribution} {what}: set cjdns_install_method to {' or '.join(possible)}"]
    problems = []
    required = {"binary": ("binary_src", "binary_checksum"), "source": ("source_checksum",)}.get(method, ())
    for name in required:
        if not params[name]:
            hint = ", because its checksum is known for the default cjdns_version only" if name == "source_checksum" else ""
            problems.append(f"cjdns_{name} is not set: cjdns_install_method {method} needs it{hint}")
        elif name.endswith("checksum") and not re.fullmatch("sha256:[0-9a-fA-F]{64}", params[name]):
            problems.append(f"cjdns_{name} is {params[name]!r}: write it as sha256: and 64 hex digits")
        elif name == "binary_src" and not re.match("/|~|[a-z]+://", params[name]):
            problems.append(f"cjdns_binary_src is {params[name]!r}: write the whole path of the file on the controller, or a URL")
    return problems


def config_problems(params: dict, own: identity.Identity | None) -> list[str]:
    """List what is wrong with the wished configuration."""
    problems = [
        f"{variable} is {value}: set it to a port from 1 to 65535"
        for variable, value in (("cjdns_port", params["port"]), ("cjdns_admin_port", params["admin_port"]))
        if not 1 <= value <= 65535
    ]
    if params["port"] == params["admin_port"]:
        problems.append(f"cjdns_port and cjdns_admin_port are both {params['port']}: give each its own port")
    peer_problems = conf.check_peers(params["peers"], own.public_key if own else None)
    if peer_problems:
        return problems + peer_problems
    try:
        config = conf.place_peers(json.loads(params["config"]), params["peers"])
    except conf.ConfError as error:
        return problems + [str(error)]
    return problems + conf.check(config, own.public_key if own else None)


def tool_versions(module: AnsibleModule) -> dict[str, str]:
    """The versions of those tools of a build that the node has."""
    versions = {}
    for tool in ("node", "rustc", "cargo"):
        path = next((found for found in (f"{place}/{tool}" for place in BUILD_PATH.split(":")) if os.access(found, os.X_OK)), None)
        if path is None:
            continue
        rc, out, _err = module.run_command([path, "--version"])
        found = re.search(r"[0-9]+(\.[0-9]+)+", out)
        if rc == 0 and found:
            versions[tool] = found.group(0)
    return versions


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "install_method": {"type": "str", "choices": ["package", "source", "binary"], "required": True},
            "package_families": {"type": "list", "elements": "str", "default": []},
            "source_families": {"type": "list", "elements": "str", "default": []},
            "binary_src": {"type": "str", "default": ""},
            "binary_checksum": {"type": "str", "default": ""},
            "source_checksum": {"type": "str", "default": ""},
            "files": {"type": "list", "elements": "path", "default": []},
            "unit": {"type": "str", "default": "cjdns.service"},
            "port": {"type": "int", "required": True},
            "admin_port": {"type": "int", "required": True},
            "peers": conf.PEERS_ARGUMENT,
            "config": {"type": "str", "default": "{}", "no_log": True},
            "identity_path": {"type": "path", "default": "/etc/cjdns/identity.json"},
            "config_path": {"type": "path", "default": "/etc/cjdroute.conf"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if os.geteuid() != 0:
        module.fail_json(msg="cjdns can only be set up by root: set become to true")

    os_release = parse_os_release(read_or("/etc/os-release", ""))
    family = family_of(os_release)
    distribution = os_release.get("PRETTY_NAME") or os_release.get("ID") or "this system"

    problems = method_problems(params, family, distribution)
    booted = os.path.isdir("/run/systemd/system")
    if not booted:
        init = read_or("/proc/1/comm", "something else").strip()
        problems.append(f"the node was booted by {init}, not by systemd: this role runs cjdns as a systemd service only")
    own = None
    try:
        own, _in_file = identity.present(params["identity_path"], params["config_path"])
    except identity.IdentityError as error:
        problems.append(str(error))
    problems += config_problems(params, own)
    problems += port_problems(params["port"], params["admin_port"], params["unit"])

    surroundings = tun_problems() + ipv6_problems()
    if module.check_mode:
        for problem in surroundings:
            module.warn(f"cjdns will not start unless this is repaired: {problem}")
    else:
        problems += surroundings
    if problems:
        module.fail_json(msg="cjdns cannot be set up on this node:\n" + "\n".join(f"- {problem}" for problem in problems))

    unit = {}
    if booted:
        try:
            unit = systemd.show([params["unit"]], ("LoadState", "NeedDaemonReload"), module.run_command)[params["unit"]]
        except systemd.SystemdError as error:
            module.fail_json(msg=str(error))
    result = {
        "distribution": distribution,
        "family": family,
        "machine": platform.machine(),
        "sha256": {path: digest for path, digest in ((path, on_disk.digest(path)) for path in params["files"]) if digest},
        "unit_present": unit.get("LoadState") == "loaded",
        "unit_changed": unit.get("NeedDaemonReload") == "yes",
    }
    if params["install_method"] == "source":
        result["tools"] = tool_versions(module)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
