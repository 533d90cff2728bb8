# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tests of this scenario share."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import yaml
from mesh import Run, playbook

NODES = ("n1", "n2", "n3")
WEB = {"n1", "n2"}
WEB_NAME = "web.service.consul"
ROLE = "vdloo.mesh.service"
# sshd stands in for any program: it listens on port 22 of every node, and knows nothing of the mesh.
SHELL = {"service_name": "test-shell", "service_port": 22, "service_check": {"tcp": True, "interval": "1s"}}
SHELL_NAME = "test-shell.service.consul"
GONE = [{"service_name": name, "service_state": "absent"} for name in ("test-shell", "test-door")]
# All that is asked of a node, in one call: each answer within the patience of a user, on a line of its own.
LOOK = """
echo $(timeout 4 getent ahosts web.service.consul | awk '{print $1}' | sort -u)
echo $(timeout 4 getent ahosts %s.mesh | awk '{print $1}' | sort -u)
echo $(timeout 4 getent ahosts %s | awk '{print $1}' | sort -u)
echo $(curl -s -m 5 http://127.0.0.1/)
mesh-names --status --json
"""


class Look:
    """How names are on a node: `instances` are the nodes on which it finds the service web."""

    def __init__(self, mesh, name: str) -> None:
        nodes = owners(mesh)
        web, own, ordinary, served, status = mesh.node(name).run(LOOK % ("n3", ordinary_name(mesh, name))).stdout.split("\n", 4)
        self.instances = {nodes[found] for found in web.split()}
        self.own_names = own == address(mesh, "n3")
        self.ordinary_names = bool(ordinary)
        self.serves = "served by" in served
        self.status = json.loads(status) if status.startswith("{") else {}

    @property
    def all_go_on(self) -> bool:
        return self.instances == WEB and self.own_names and self.ordinary_names and self.serves

    @property
    def fresh(self) -> bool:
        """Whether Consul answers, and the snapshot of its services is the present one."""
        return self.all_go_on and self.status.get("stale") is False and not self.status["snapshot"]["problem"]


def ordinary_name(mesh, name: str) -> str:
    """A name that is none of the mesh's: another container's, which only the name server that the node had before can know."""
    return mesh.hosts["n2" if name == "n1" else "n1"]["testbed_container"]


def address(mesh, name: str) -> str:
    return str(ipaddress.ip_address(mesh.address(name)))


def owners(mesh) -> dict[str, str]:
    return {address(mesh, name): name for name in NODES}


def all_fresh(mesh) -> bool:
    return all(Look(mesh, name).fresh for name in NODES)


def whole(mesh) -> bool:
    """Whether every node is up, knows all others as alive, and there is a leader."""
    return all(
        mesh.members(name) == dict.fromkeys(NODES, "alive") and sum(voter for _state, voter in mesh.raft(name).values()) == len(NODES)
        for name in NODES
    )


def publish(mesh, path: Path, node: str, services: list[dict], *arguments: str) -> Run:
    """Run a user's own playbook on one node, with one include of the role for each of the services."""
    tasks = [{"ansible.builtin.include_role": {"name": ROLE}, "vars": service} for service in services]
    (path / "own.yml").write_text(yaml.safe_dump([{"hosts": node, "gather_facts": False, "tasks": tasks}]))
    return playbook(mesh.inventory, path / "own.yml", *arguments)
