#!/usr/bin/env python3
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Boot the test nodes that a topology file describes, and write the Ansible inventories that reach them by SSH.

    testbed.py up TOPOLOGY [--new]     boot what is missing; --new removes all of it first
    testbed.py down TOPOLOGY           remove its containers, networks and inventory

A topology (YAML):

    name: demo                    everything in Docker is called vdloo-mesh-<name>-...
    networks:
      cloud: {}
      home: {nat_to: cloud}       a router container lets its nodes dial out into cloud, and nobody in
    nodes:
      vps1:
        networks: [cloud]         the first one is where Ansible connects
        vars: {mesh_zones: [cloud]}
        listens: {cloud: cloud}   network: zone; becomes mesh_endpoints
        tun: false                a container without the TUN device, that may not make one
    vars: {...}                   variables of all nodes

Nodes boot systemd from the image that script/bootstrap makes, with addresses that stay over a restart. Each can be the controller as well: it
has Ansible's programs, and this clone at /opt/mesh, both read-only.

Two inventories are written: hosts.yml lists the nodes at their underlay addresses, mesh.yml asks the mesh that has been made of them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import ipaddress
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import docker
import docker.errors
import yaml

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "testbed"
IMAGE = os.environ.get("VDLOO_MESH_NODE_IMAGE", "vdloo-mesh-node:bookworm")
LABEL = "vdloo.mesh.testbed"
ROUTER = "router"
CJDNS_PORT = 4321
BOOT_SECONDS = 60
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
# What script/bootstrap made for the nodes to be controllers with.
CONTROLLER = ROOT / ".cache" / "controller"
PROGRAMS = ("ansible", "ansible-doc", "ansible-inventory", "ansible-playbook")

# What systemd, a TUN device and iptables need in an unprivileged container.
BOOT_OPTIONS = {
    "cap_add": ["NET_ADMIN", "SYS_ADMIN", "NET_RAW"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
    "cgroupns": "host",
    # The key to all nodes lies in .cache, and none of them should have it.
    "tmpfs": {"/run": "", "/tmp": "", "/opt/mesh/.cache": "ro,size=4k"},
    "volumes": {
        "/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "rw"},
        str(CONTROLLER): {"bind": "/opt/controller", "mode": "ro"},
        str(ROOT): {"bind": "/opt/mesh", "mode": "ro"},
    },
    "devices": ["/dev/net/tun"],
    "sysctls": {
        "net.ipv6.conf.all.disable_ipv6": "0",
        "net.ipv6.conf.default.disable_ipv6": "0",
        "net.ipv4.ip_forward": "1",
    },
    "stop_signal": "SIGRTMIN+3",
}

# A node's own routes and NAT rules, set at each boot as a DHCP lease or a router's firmware would.
NETWORK_UNIT = """\
[Unit]
Description=Routes of the test bed
After=network.target
Before=ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -eu /etc/testbed/network.sh

[Install]
WantedBy=multi-user.target
"""


class Testbed:
    """The containers, networks and inventory of one topology."""

    def __init__(self, topology: dict) -> None:
        self.topology = topology
        self.name = topology["name"]
        self.prefix = f"vdloo-mesh-{self.name}-"
        self.directory = CACHE / self.name
        self.control_path = Path.home() / ".ansible" / "cp" / f"vdloo-mesh-{self.name}"
        self.docker = docker.from_env()

    def up(self) -> None:
        if not (CONTROLLER / "bin" / "ansible").exists():
            sys.exit(f"{CONTROLLER} is missing: run script/bootstrap")
        networks = {name: self._network(name) for name in self.topology["networks"]}
        addresses = self._addresses(networks)
        # Routers first: a node behind one has no way out before it is there.
        for name, options in self.topology["networks"].items():
            if "nat_to" in options:
                self._router(name, options["nat_to"], networks, addresses)
        for name, options in self.topology["nodes"].items():
            self._boot(name, options["networks"], networks, addresses, self._node_script(options, addresses))
        self._write_inventories(addresses)
        print(self.directory / "hosts.yml")

    def down(self) -> None:
        for container in self.docker.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"}):
            container.remove(force=True, v=True)
        for network in self.docker.networks.list(filters={"label": f"{LABEL}={self.name}"}):
            network.remove()
        # A connection that is kept open to a removed node would be used again for the next one at its address.
        for socket in self.control_path.glob("*"):
            subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "-"], capture_output=True, check=False)
        shutil.rmtree(self.control_path, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _network(self, name: str):
        """Find or create a network. Its subnet is fixed, as only then can addresses be."""
        found = self.docker.networks.list(names=[f"^{self.prefix}{name}$"])
        if found:
            return self.docker.networks.get(found[0].id)
        for third in range(256):
            pool = docker.types.IPAMPool(subnet=f"10.213.{third}.0/24")
            try:
                return self.docker.networks.create(
                    self.prefix + name, labels={LABEL: self.name}, ipam=docker.types.IPAMConfig(pool_configs=[pool])
                )
            except docker.errors.APIError as error:
                if "overlap" not in str(error):
                    raise
        sys.exit("no free /24 is left in 10.213.0.0/16")

    def _addresses(self, networks: dict) -> dict[tuple[str, str], str]:
        """Number the members of each network in the topology's order: {(network, node): address}."""
        addresses = {}
        for name, network in networks.items():
            network.reload()
            subnet = ipaddress.ip_network(network.attrs["IPAM"]["Config"][0]["Subnet"])
            members = [
                f"{home}-{ROUTER}"
                for home, options in self.topology["networks"].items()
                if "nat_to" in options and name in (home, options["nat_to"])
            ]
            members += [node for node, options in self.topology["nodes"].items() if name in options["networks"]]
            for number, member in enumerate(members, start=10):
                addresses[name, member] = str(subnet[number])
        return addresses

    def _router(self, inside: str, outside: str, networks: dict, addresses: dict) -> None:
        name = f"{inside}-{ROUTER}"
        gateway = ipaddress.ip_network(networks[outside].attrs["IPAM"]["Config"][0]["Subnet"])[1]
        script = (
            # Which network gives the default route differs among the versions of Docker.
            f"ip route replace default via {gateway}\n"
            f"out=$(ip -4 -o addr show to {addresses[outside, name]} | cut -d' ' -f2)\n"
            'iptables -t nat -A POSTROUTING -o "$out" -j MASQUERADE\n'
            'iptables -A FORWARD -i "$out" -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP\n'
        )
        self._boot(name, [outside, inside], networks, addresses, script)

    def _node_script(self, options: dict, addresses: dict) -> str:
        home = options["networks"][0]
        router = addresses.get((home, f"{home}-{ROUTER}"))
        return f"ip route replace default via {router}\n" if router else ""

    def _boot(self, name: str, members_of: list[str], networks: dict, addresses: dict, script: str) -> None:
        try:
            container = self.docker.containers.get(self.prefix + name)
        except docker.errors.NotFound:
            container = self._create(name, members_of, networks, addresses, script)
        if container.status != "running":
            container.start()
        deadline = time.monotonic() + BOOT_SECONDS
        while container.exec_run(["systemctl", "is-active", "ssh"]).exit_code != 0:
            if time.monotonic() > deadline:
                sys.exit(f"{name} did not boot within {BOOT_SECONDS} s: docker logs {container.name}")
            time.sleep(0.3)

    def _create(self, name: str, members_of: list[str], networks: dict, addresses: dict, script: str):
        first = networks[members_of[0]]
        container = self.docker.containers.create(
            IMAGE,
            name=self.prefix + name,
            hostname=name,
            labels={LABEL: self.name},
            network=first.name,
            networking_config={first.name: self.docker.api.create_endpoint_config(ipv4_address=addresses[members_of[0], name])},
            **{**BOOT_OPTIONS, **({} if self.topology["nodes"].get(name, {}).get("tun", True) else {"devices": [], "cap_drop": ["MKNOD"]})},
        )
        for member_of in members_of[1:]:
            networks[member_of].connect(container, ipv4_address=addresses[member_of, name])
        public_key = (CACHE / "id_ed25519.pub").read_text()
        container.put_archive(
            "/",
            _tar(
                {
                    "root/.ssh/authorized_keys": (public_key, 0o600),
                    "etc/testbed/network.sh": (script, 0o644),
                    "etc/systemd/system/testbed-network.service": (NETWORK_UNIT, 0o644),
                },
                links={
                    "etc/systemd/system/multi-user.target.wants/testbed-network.service": "../testbed-network.service",
                    **{f"usr/local/bin/{program}": f"/opt/controller/bin/{program}" for program in PROGRAMS},
                },
            ),
        )
        return container

    def _write_inventories(self, addresses: dict) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.control_path.mkdir(parents=True, exist_ok=True)
        hosts, known_hosts = {}, []
        for name, options in self.topology["nodes"].items():
            address = addresses[options["networks"][0], name]
            container = self.docker.containers.get(self.prefix + name)
            # Made by the node itself at its first boot, which may be behind on a busy machine.
            host_key = container.exec_run(["sh", "-c", f"until [ -s {HOST_KEY} ]; do sleep 0.2; done; cat {HOST_KEY}"]).output.decode()
            known_hosts.append(f"{address} {host_key}")
            listens = options.get("listens", {})
            endpoints = [{"address": f"{addresses[network, name]}:{CJDNS_PORT}", "zone": zone} for network, zone in listens.items()]
            own = {
                "ansible_host": address,
                "testbed_container": container.name,
                "mesh_endpoints": endpoints,
                # An ordinary name that only the engine's name server knows, also where there is no Internet.
                "dnsmasq_probe_names": [container.name],
            }
            # What a host has would count more than what a topology gives to all.
            hosts[name] = {key: value for key, value in own.items() if key not in self.topology.get("vars", {})} | options.get("vars", {})
        (self.directory / "known_hosts").write_text("".join(known_hosts))
        reach = {"ansible_ssh_private_key_file": str(CACHE / "id_ed25519"), "ansible_control_path_dir": str(self.control_path)}
        known_hosts_option = f"-o UserKnownHostsFile={self.directory / 'known_hosts'}"
        inventory = {
            "mesh": {
                "hosts": hosts,
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_common_args": known_hosts_option,
                    **reach,
                    **binaries_at_hand(),
                    **self.topology.get("vars", {}),
                },
            }
        }
        for group, members in self.topology.get("groups", {}).items():
            inventory[group] = {"hosts": {member: None for member in members}}
        dynamic = {
            "plugin": "vdloo.mesh.mesh",
            "bootstrap": [f"root@{addresses[options['networks'][0], name]}" for name, options in self.topology["nodes"].items()],
            "bootstrap_ssh_args": f"-i {CACHE / 'id_ed25519'} {known_hosts_option}",
            # Each is an expression: a string needs quotes of its own.
            "compose": {name: repr(value) for name, value in reach.items()},
        }
        (self.directory / "hosts.yml").write_text("---\n" + yaml.safe_dump(inventory, sort_keys=False))
        (self.directory / "mesh.yml").write_text("---\n" + yaml.safe_dump(dynamic, sort_keys=False, width=1000))


def binaries_at_hand() -> dict[str, str]:
    """Variables that hand prebuilt binaries to the roles, as a user hands in a cjdroute built elsewhere."""
    found = {}
    for role, path in (("cjdns", ROOT / "tests" / "doubles" / "cjdroute"), ("consul", ROOT / ".cache" / "consul")):
        found[f"{role}_install_method"] = "binary"
        found[f"{role}_binary_src"] = str(path)
        found[f"{role}_binary_checksum"] = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found


def _tar(files: dict[str, tuple[str, int]], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (text, mode) in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), mode
            archive.addfile(member, io.BytesIO(text.encode()))
        for path, target in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("topology", type=Path)
    up.add_argument("--new", action="store_true", help="remove what is there first")
    down = commands.add_parser("down")
    down.add_argument("topology", type=Path)
    arguments = parser.parse_args()

    testbed = Testbed(yaml.safe_load(arguments.topology.read_text()))
    if arguments.command == "down" or arguments.new:
        testbed.down()
    if arguments.command == "up":
        testbed.up()


if __name__ == "__main__":
    main()
