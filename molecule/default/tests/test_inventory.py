# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The inventory plugin at its users' edge: on every node, and on a machine outside the mesh. Each test leaves the mesh whole."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import time
from typing import NamedTuple

import pytest
import yaml
from mesh import ENVIRONMENT, ROOT, playbook
from test_survives import NODES, whole

OUTSIDE = "outside"
# Consul needs some seconds to call a node failed, cjdns to call a link silent; a bootstrap node that hangs costs its time-out.
DETECTION_SECONDS = 30
STRICT = "--ssh-extra-args='-o StrictHostKeyChecking=yes -o ControlPath=none'"


class Said(NamedTuple):
    """What a program said."""

    code: int
    out: str
    err: str


class Users:
    """People who run Ansible's programs: one logged in on each node with an SSH agent along, and one on the Docker host."""

    def __init__(self, mesh, agent: str) -> None:
        self.mesh, self.agent = mesh, agent

    def run(self, where: str, program: str, arguments: str) -> Said:
        """Run a program of Ansible's with the mesh as its inventory."""
        if where == OUTSIDE:
            command = f"{ROOT}/.venv/bin/{program} -i {self.mesh.inventory.with_name('mesh.yml')} {arguments}"
            return self._finish(["sh", "-c", command], ENVIRONMENT)
        known_hosts = self.mesh.inventory.with_name("known_hosts")
        login = [
            "ssh",
            "-A",
            "-o",
            f"UserKnownHostsFile={known_hosts}",
            "-o",
            "BatchMode=yes",
            f"root@{self.mesh.hosts[where]['ansible_host']}",
        ]
        command = f"cd /opt/mesh && ANSIBLE_NOCOLOR=1 {program} -i inventory/mesh.yml {arguments}"
        return self._finish([*login, command], {**os.environ, "SSH_AUTH_SOCK": self.agent})

    @staticmethod
    def _finish(command: list[str], environment: dict) -> Said:
        finished = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
        # Ansible breaks the lines of its warnings.
        return Said(finished.returncode, finished.stdout, " ".join(finished.stderr.split()))

    def list(self, where: str) -> tuple[dict, str]:
        """The inventory as one sees it, and the warnings."""
        said = self.run(where, "ansible-inventory", "--list")
        assert said.code == 0, said
        return json.loads(said.out, object_hook=untemplated), said.err

    def members(self, where: str) -> tuple[set[str], set[str]]:
        """Who is in `mesh`, and who in `mesh_unreachable`."""
        inventory, _warnings = self.list(where)
        return members(inventory, "mesh"), members(inventory, "mesh_unreachable")

    def ping(self, where: str) -> set[str]:
        """Who answers `ansible mesh -m ping`, with host keys checked on connections of its own."""
        said = self.run(where, "ansible", f"mesh -m ping --one-line {STRICT}")
        assert said.code == 0, said
        return set(re.findall(r"^(\S+) \| SUCCESS", said.out, re.MULTILINE))


def members(inventory: dict, group: str) -> set[str]:
    return set(inventory.get(group, {}).get("hosts", []))


def untemplated(value: dict):
    """Take off the mark that Ansible puts on a string that is never a template."""
    return value["__ansible_unsafe"] if set(value) == {"__ansible_unsafe"} else value


@pytest.fixture(scope="module")
def users(mesh, tmp_path_factory):
    socket = tmp_path_factory.mktemp("agent") / "socket"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        mesh.wait_for(socket.exists, "the SSH agent listens", 10)
        key = mesh.inventory.parent.parent / "id_ed25519"
        subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, "SSH_AUTH_SOCK": str(socket)}, check=True)
        yield Users(mesh, str(socket))
    finally:
        agent.terminate()
        agent.wait()


@pytest.fixture(scope="module", autouse=True)
def _whole_at_first(mesh):
    mesh.wait_for(lambda: whole(mesh), "the mesh is whole before the tests")


@pytest.fixture
def whole_after(mesh):
    yield
    mesh.wait_for(lambda: whole(mesh), "the mesh is whole after the test", 120)


@pytest.fixture(params=[*NODES, OUTSIDE])
def where(request) -> str:
    return request.param


def test_the_inventory_lists_all_nodes_as_they_are_from_anywhere(mesh, users, where):
    inventory, warnings = users.list(where)
    assert "WARNING" not in warnings
    assert members(inventory, "mesh") == set(NODES)
    assert members(inventory, "mesh_unreachable") == set()
    assert members(inventory, "consul_servers") == set(NODES)
    assert members(inventory, "consul_clients") == set()
    assert members(inventory, "service_web") == {"n1", "n2"}
    for name, variables in inventory["_meta"]["hostvars"].items():
        assert ipaddress.ip_address(variables["ansible_host"]) == ipaddress.ip_address(mesh.address(name))
        assert variables["mesh_address"] == variables["ansible_host"]
        assert variables["mesh_public_key"] == mesh.registry[name]["public_key"]
        assert (variables["mesh_status"], variables["mesh_consul_status"], variables["mesh_state"]) == ("alive", "alive", "member")
        assert variables["mesh_conflicts"] == []
        assert variables["mesh_role"] == "server"
        assert set(variables["mesh_sources"]) == {"cjdns", "consul", "kv", "registry"}, name
        assert variables["mesh_services"].get("web") == (None if name == "n3" else "passing")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", variables["mesh_converged"])


def test_the_graph_shows_every_node_in_the_group_mesh(users, where):
    said = users.run(where, "ansible-inventory", "--graph mesh")
    assert said.code == 0, said
    assert re.findall(r"--(\S+)", said.out) == list(NODES)


def test_every_node_is_reached_over_the_overlay_with_its_host_key_checked(users, where):
    assert users.ping(where) == set(NODES)


def test_ssh_trusts_no_host_key_but_those_of_the_mesh(users):
    said = users.run("n1", "ansible", f"mesh -m ping --one-line {STRICT} -e ansible_ssh_common_args=")
    assert said.code != 0
    assert said.out.count("Host key verification failed") == len(NODES), said


@pytest.mark.usefixtures("whole_after")
def test_a_dead_node_is_out_of_the_group_mesh_in_time_and_back_when_it_lives(mesh, users):
    # The first one that the user outside would ask.
    dead, others = "n1", ("n2", "n3")
    mesh.container(dead).kill()
    killed = time.monotonic()
    try:
        for one in (*others, OUTSIDE):
            mesh.wait_for(
                lambda one=one: users.members(one) == (set(others), {dead}),
                f"{dead} is unreachable for {one}",
                killed + DETECTION_SECONDS - time.monotonic(),
            )
        for one in (*others, OUTSIDE):
            inventory, _warnings = users.list(one)
            assert inventory["_meta"]["hostvars"][dead]["mesh_status"] == "failed"
            assert dead not in members(inventory, "consul_servers") | members(inventory, "service_web")
            start = time.monotonic()
            assert users.ping(one) == set(others)
            assert time.monotonic() - start < DETECTION_SECONDS, "a run hangs on the dead"
    finally:
        mesh.container(dead).start()
        mesh._connections.pop(dead, None)
    mesh.wait_for(lambda: mesh.node(dead).run("true").rc == 0, f"{dead} answers by SSH")
    for one in (*NODES, OUTSIDE):
        mesh.wait_for(lambda one=one: users.members(one) == (set(NODES), set()), f"{dead} is back for {one}")


@pytest.mark.usefixtures("whole_after")
def test_without_two_of_three_consul_servers_the_live_links_keep_their_nodes_in_the_mesh(mesh, users):
    stopped = ("n1", "n2")
    for name in stopped:
        mesh.node(name).check_output("systemctl stop consul")
    try:

        def conflicts() -> bool:
            known = users.list("n3")[0]["_meta"]["hostvars"]
            return all(known[name]["mesh_conflicts"] == ["Consul says failed, cjdns says ESTABLISHED"] for name in stopped)

        mesh.wait_for(conflicts, "the two views of the stopped servers differ", DETECTION_SECONDS)
        inventory, _warnings = users.list("n3")
        for name in stopped:
            variables = inventory["_meta"]["hostvars"][name]
            assert (variables["mesh_status"], variables["mesh_consul_status"]) == ("failed", "failed")
            assert variables["mesh_cjdns_state"] == "ESTABLISHED"
        assert inventory["_meta"]["hostvars"]["n3"]["mesh_status"] == "alive"
        assert members(inventory, "mesh") == set(NODES)
        assert users.ping("n3") == set(NODES)
        shown = users.run("n3", "ansible-playbook", "playbooks/members.yml").out
        assert "n1* Consul says failed, cjdns says ESTABLISHED" in shown
        # And on a node whose own agent is down.
        inventory, warnings = users.list("n1")
        assert members(inventory, "mesh") == set(NODES)
        assert "Consul" in warnings
    finally:
        for name in stopped:
            mesh.node(name).check_output("systemctl start consul")


@pytest.mark.usefixtures("whole_after")
def test_a_node_cut_off_from_cjdns_and_consul_answers_from_the_registry_and_then_says_what_to_do(mesh, users):
    registry = "/var/lib/vdloo-mesh/registry.json"
    mesh.node("n3").check_output("systemctl stop consul cjdns")
    try:
        inventory, warnings = users.list("n3")
        known = inventory["_meta"]["hostvars"]
        assert {name: variables["mesh_status"] for name, variables in known.items()} == dict.fromkeys(NODES, "unknown")
        assert {name: variables["mesh_sources"] for name, variables in known.items()} == dict.fromkeys(NODES, ["registry"])
        assert {name: ipaddress.ip_address(variables["ansible_host"]) for name, variables in known.items()} == {
            name: ipaddress.ip_address(mesh.address(name)) for name in NODES
        }
        # Nobody says that they answer, and without the overlay nobody can be reached.
        assert members(inventory, "mesh_unreachable") == set(NODES)
        for source in ("cjdns", "Consul"):
            assert f"does without {source}: " in warnings, warnings

        mesh.node("n3").check_output("mv %s %s.away", registry, registry)
        said = users.run("n3", "ansible-inventory", "--list")
        assert said.code != 0
        for tried in ("127.0.0.1:11234", "127.0.0.1:8500", registry, "systemctl status cjdns consul", "inventory/hosts.yml"):
            assert tried in said.err, said
    finally:
        mesh.node("n3").run("mv %s.away %s", registry, registry)
        mesh.node("n3").check_output("systemctl start cjdns consul")
    mesh.wait_for(lambda: users.members("n3") == (set(NODES), set()), "n3 sees the mesh again")


@pytest.mark.parametrize("asked", ["n3", OUTSIDE])
def test_the_members_are_a_table(mesh, users, asked):
    said = users.run(asked, "ansible-playbook", "playbooks/members.yml")
    assert said.code == 0, said
    rows = {fields[1]: fields[2:] for fields in map(str.split, said.out.splitlines()) if fields[:1] == ["-"]}
    assert set(rows) == {"node", *NODES}, said.out
    for name in NODES:
        address, status, role, peers, services, converged = rows[name]
        assert ipaddress.ip_address(address) == ipaddress.ip_address(mesh.address(name))
        assert (status, role, peers) == ("alive", "server", "2/2")
        assert ("web" in services.split(",")) == (name in ("n1", "n2"))
        assert converged.endswith("Z")


def test_site_run_with_the_mesh_as_its_inventory_changes_nothing(mesh, tmp_path):
    before = {name: mesh.pids(name) for name in NODES}
    # As a user keeps them: the settings beside the inventory, without the first inventory's ways to the hosts.
    settings = yaml.safe_load(mesh.inventory.read_text())["mesh"]["vars"]
    settings = {name: value for name, value in settings.items() if not name.startswith("ansible_")}
    probe = mesh.hosts["n1"]["testbed_container"].replace("n1", "{{ inventory_hostname }}")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "mesh.yml").write_text(yaml.safe_dump({**settings, "dnsmasq_probe_names": [probe]}))
    (tmp_path / "mesh.yml").write_text(mesh.inventory.with_name("mesh.yml").read_text())
    run = playbook(tmp_path / "mesh.yml", ROOT / "site.yml")
    assert run.code == 0, run.output
    assert {name: run.changed[name] for name in NODES} == dict.fromkeys(NODES, 0), run.output
    assert {name: mesh.pids(name) for name in NODES} == before
