# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must hold before a node is changed. Data in, sentences out: each names a variable and says what to do."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re

from . import addresses, binary

DNS_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
SHA256 = re.compile(r"(sha256:)?[0-9a-f]{64}")
DATACENTER = re.compile(r"[a-z0-9_-]+")

# Keys that the role must know itself, or that would break a promise of it.
RESERVED = {
    "node_name": "set consul_node_name",
    "server": "set consul_server",
    "data_dir": "set consul_data_dir",
    "bind_addr": "set consul_bind_address",
    "advertise_addr": "set consul_bind_address",
    "datacenter": "set consul_datacenter",
    "encrypt": "set consul_gossip_key, which is kept out of logs and diffs",
    "retry_join": "set consul_retry_join",
    "start_join": "set consul_retry_join",
    "bootstrap": "set consul_bootstrap_expect, which ends with the first leader",
    "bootstrap_expect": "set consul_bootstrap_expect, which ends with the first leader",
    "node_id": "leave the node id to Consul: a pinned id whose data are lost still votes, with an empty log",
}


def of_input(options: dict) -> list[str]:
    """Check the variables by themselves."""
    return [
        *_version(options),
        *_checksum(options),
        *_identity(options),
        *_address(options),
        *_gossip_key(options),
        *_bootstrap(options),
        *_config(options),
    ]


def _version(options: dict) -> list[str]:
    if options["method"] != "release":
        return []
    version = options["version"]
    try:
        numbers = binary.parse_version(version)
    except ValueError:
        return [f"consul_version {version} is not a version: write it as 1.21.5"]
    if numbers < binary.MINIMUM:
        return [f"consul_version {version} is below 1.8: set consul_version or consul_install_method"]
    if not re.fullmatch(r"\d+\.\d+\.\d+([+-][0-9A-Za-z.+-]+)?", version):
        return [f"consul_version {version} is not a whole version: write it as 1.21.5"]
    return []


def _checksum(options: dict) -> list[str]:
    if options["method"] != "binary":
        return []
    problems = []
    if not options["binary_src"]:
        problems.append("consul_binary_src is empty: name a file on the controller or a URL, or set consul_install_method")
    if not options["binary_checksum"]:
        problems.append("consul_binary_checksum is empty: give the SHA-256 of consul_binary_src as sha256:<64 hex digits>")
    elif not SHA256.fullmatch(options["binary_checksum"]):
        problems.append(f"consul_binary_checksum {options['binary_checksum']!r} is no SHA-256: write it as sha256:<64 hex digits>")
    return problems


def _identity(options: dict) -> list[str]:
    problems = []
    if not DNS_LABEL.fullmatch(options["node_name"]):
        problems.append(
            f"consul_node_name {options['node_name']!r} is not a DNS label:"
            " use at most 63 letters, digits and inner hyphens, as it becomes <name>.node.consul"
        )
    if not DATACENTER.fullmatch(options["datacenter"]):
        problems.append(f"consul_datacenter {options['datacenter']!r} may only have lower-case letters, digits, - and _")
    for name in ("data_dir", "config_dir"):
        path = options[name]
        if not path.startswith("/") or path.rstrip("/") in ("", "/etc", "/var", "/var/lib", "/usr", "/home", "/root", "/opt", "/srv"):
            problems.append(f"consul_{name} {path!r} must be the absolute path of a directory of its own")
        elif re.match(r"/(home|root|run/user|tmp|var/tmp)/", path):
            problems.append(
                f"consul_{name} {path!r} is out of reach for the service (home and temporary directories): use /var/lib or /etc"
            )
    return problems


def _address(options: dict) -> list[str]:
    problems = []
    own = options["bind_address"]
    try:
        address = ipaddress.ip_address(own)
    except ValueError:
        problems.append(
            f"consul_bind_address {own!r} is not a literal address: write it as fc00::1 or 10.0.0.1, with no brackets and no port"
        )
        address = None
    if address and (address.is_unspecified or address.is_multicast or address.is_link_local):
        problems.append(f"consul_bind_address {own} is an address that other nodes cannot dial: give this node's own address in the mesh")
    invalid = []
    for peer in options["retry_join"]:
        try:
            addresses.parse_peer(peer)
        except ValueError:
            invalid.append(peer)
    problems += [
        f"consul_retry_join: {peer!r} is not a literal address (fc00::1, [fc00::1]:8301, 10.0.0.1 or 10.0.0.1:8301)" for peer in invalid
    ]
    first_node = options["server"] and options["bootstrap_expect"] == 1
    if address and not invalid and not first_node and not options["marker"] and not addresses.other_peers(options["retry_join"], own, 8301):
        what = "names only this node itself" if options["retry_join"] else "is empty"
        problems.append(
            f"consul_retry_join {what}: name other nodes to join, or set consul_bootstrap_expect to 1 on the first node of a new mesh"
        )
    return problems


def _gossip_key(options: dict) -> list[str]:
    advice = "make one with `openssl rand -base64 32`, the same for all nodes"
    try:
        size = len(base64.b64decode(options["gossip_key"], validate=True))
    except (binascii.Error, ValueError):
        return [f"consul_gossip_key is not base64: {advice}"]
    return [] if size in (16, 24, 32) else [f"consul_gossip_key has {size} bytes and not 16, 24 or 32: {advice}"]


def _bootstrap(options: dict) -> list[str]:
    problems = []
    expect = options["bootstrap_expect"]
    if expect < 0:
        problems.append(f"consul_bootstrap_expect {expect} is below 0")
    if expect and not options["server"]:
        problems.append(f"consul_bootstrap_expect is {expect} but consul_server is false: only servers bootstrap; remove one of the two")
    return problems


def _config(options: dict) -> list[str]:
    problems = [f"consul_config.{key}: {advice}" for key, advice in RESERVED.items() if key in options["config"]]
    for name, port in options["ports"].items():
        if not 0 < port < 65536:
            problems.append(f"consul_config.ports.{name} is {port}: the role needs this port, give one from 1 to 65535")
    return problems


def of_node(options: dict, node: dict) -> list[str]:
    """Check the variables against what the node is and has."""
    problems = []
    if not node["systemd"]:
        problems.append(f"this node runs no systemd (its first process is {node['init']}), and the role knows no other init yet")
    if not node["has_ip"]:
        problems.append("the command ip was not found: install iproute2, the unit needs it to wait for consul_bind_address")
    problems += _source(options, node)
    for listener in node["taken"]:
        problems.append(
            f"port {listener['port']}/{listener['protocol']} on {listener['address']} is held by {listener['process']}:"
            " stop it, or choose another port in consul_config.ports"
        )
    if node["address_missing"]:
        problems.append(f"consul_bind_address {options['bind_address']} is on no interface of this node: bring the overlay up first")
    problems += _history(options, node)
    return problems


def _source(options: dict, node: dict) -> list[str]:
    architecture = node["architecture"]
    if options["method"] == "release":
        if not node["release_architecture"]:
            return [f"the vendor builds no Consul for {architecture}: set consul_install_method to binary or package"]
        checksum = options["release_checksums"].get(node["release_architecture"])
        if not checksum:
            return [
                f"no checksum is known for Consul {options['version']} on {node['release_architecture']}:"
                f" give the vendor's SHA-256 in consul_release_checksums.{node['release_architecture']}, or set consul_install_method"
            ]
        if not SHA256.fullmatch(checksum):
            return [f"consul_release_checksums.{node['release_architecture']} {checksum!r} is no SHA-256: write it as 64 hex digits"]
    if options["method"] == "package" and not node["binary"]["version"]:
        candidate = node["package_candidate"]
        if not candidate:
            return [
                f"{node['os']} has no consul package in its package lists:"
                " set consul_install_method to release (the vendor's build) or binary (your own file)"
            ]
        if binary.parse_version(candidate) < binary.MINIMUM:
            return [f"the consul package of {node['os']} is {candidate}, below 1.8: set consul_install_method to release or binary"]
    if options["method"] == "package" and node["binary"]["version"] and binary.parse_version(node["binary"]["version"]) < binary.MINIMUM:
        return [f"the installed consul package is {node['binary']['version']}, below 1.8: set consul_install_method to release or binary"]
    return []


def _history(options: dict, node: dict) -> list[str]:
    """Refuse changes that would tear a node out of a mesh that it is already in."""
    problems = []
    agent = node["agent"]
    if options["marker"] and options["marker"] != options["datacenter"]:
        problems.append(
            f"consul_datacenter is {options['datacenter']} but this node belongs to the datacenter {options['marker']}:"
            f" put that name back, or run `consul leave` on it and move {options['data_dir']} and {node['marker_path']} away by hand"
        )
    if agent and agent["node"] != options["node_name"]:
        problems.append(
            f"consul_node_name is {options['node_name']} but the node is a member as {agent['node']}:"
            " run `consul leave` on it first, or the mesh keeps two names for one node"
        )
    if agent and options["bind_address"] != agent["address"] and not _same_address(options["bind_address"], agent["address"]):
        problems.append(
            f"consul_bind_address is {options['bind_address']} but the node is a member as {agent['address']}:"
            " run `consul leave` on it first, or stop the service if the old address is gone"
        )
    if node["keyring"] == "other":
        problems.append(
            "consul_gossip_key is not the key that this node uses (it is kept in the data directory, which wins over the configuration):"
            " put the old key back and rotate with `consul keyring`;"
            f" if the node never joined, stop consul and move {options['data_dir']}/serf/local.keyring away"
        )
    return problems


def _same_address(one: str, other: str | None) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other or "")
    except ValueError:
        return False
