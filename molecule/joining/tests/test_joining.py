# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Machines join a mesh of three and leave it, from nodes, from outside and on themselves. The tests build on each other."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from mesh import ROOT, Run, playbook

FIRST = ("n1", "n2", "n3")
PERIOD = 40
WORK = 90
REGISTRY = "/var/lib/vdloo-mesh/registry.json"
KEY = "/root/.ssh/newcomer"
TIMER = "vdloo-mesh-converge.timer"


def inventory(mesh, tmp_path: Path, *names: str) -> Path:
    found = yaml.safe_load(mesh.inventory.read_text())
    found["mesh"]["hosts"] = {name: found["mesh"]["hosts"][name] for name in names}
    path = tmp_path / "hosts.yml"
    path.write_text(yaml.safe_dump(found))
    return path


def outside(mesh, tmp_path: Path, name: str, *arguments: str, hosts: tuple[str, ...] = FIRST) -> Run:
    """Run join.yml or leave.yml from this machine, with an inventory of these hosts."""
    return playbook(
        inventory(mesh, tmp_path, *hosts), ROOT / "playbooks" / f"{name}.yml", *[part for text in arguments for part in ("-e", text)]
    )


def on_node(mesh, node: str, name: str, *arguments: str):
    """The same with what a node has of its own."""
    words = " ".join(shlex.quote(part) for text in arguments for part in ("-e", text))
    return mesh.node(node).run(f"ANSIBLE_NOCOLOR=1 vdloo-mesh-playbook vdloo.mesh.{name} {words}")


def flat(text: str) -> str:
    return " ".join(text.split())


def registry(mesh, name: str) -> dict:
    return json.loads(mesh.node(name).check_output("cat %s", REGISTRY))


def states(mesh, name: str) -> dict[str, str]:
    return {other: record["state"] for other, record in registry(mesh, name).items()}


def alive(mesh, name: str) -> set[str]:
    return {other for other, status in mesh.members(name).items() if status == "alive"}


def voters(mesh, name: str) -> set[str]:
    return {peer for peer, (_state, voter) in mesh.raft(name).items() if voter}


def servers(mesh, name: str) -> set[str]:
    found = json.loads(mesh.node(name).check_output("curl -s http://127.0.0.1:8500/v1/agent/members"))
    return {member["Name"] for member in found if member["Status"] == 1 and member["Tags"].get("role") == "consul"}


def key_names(mesh, name: str) -> set[str]:
    """Which nodes may log in there."""
    return set(re.findall(r"vdloo-mesh:(\S+)", mesh.node(name).run("cat /root/.ssh/authorized_keys").stdout))


def core_pids(mesh, name: str) -> dict[str, str]:
    return {daemon: value for daemon, value in mesh.pids(name).items() if daemon in ("cjdns", "consul")}


def is_settled(mesh, names: tuple[str, ...]) -> bool:
    return all(
        alive(mesh, name) == set(names)
        and {other for other, state in states(mesh, name).items() if state == "member"} == set(names)
        and key_names(mesh, name) == set(names)
        for name in names
    )


@pytest.fixture(scope="module")
def address(mesh) -> dict[str, str]:
    return {name: host["ansible_host"] for name, host in mesh.hosts.items()}


@pytest.fixture(scope="module")
def guest_key(mesh, address) -> str:
    """Let n1 have a key for the newcomer, as an operator's agent would bring one."""
    private = (ROOT / ".cache" / "testbed" / "id_ed25519").read_text()
    mesh.node("n1").check_output("printf %%s %s >%s && chmod 600 %s", private, KEY, KEY)
    return f"join_key_file={KEY}"


@pytest.fixture(scope="module")
def third(mesh) -> str:
    """Who votes beside n1 and n2 when it is asked for first: n3, or n4 that took its place."""
    (name,) = voters(mesh, "n1") - {"n1", "n2"}
    return name


@pytest.fixture(scope="module")
def fourth(third) -> str:
    return "n4" if third == "n3" else "n3"


def test_three_nodes_are_a_mesh(mesh, tmp_path):
    run = playbook(inventory(mesh, tmp_path, *FIRST), ROOT / "site.yml")
    assert run.code == 0, run.output
    mesh.wait_for(lambda: voters(mesh, "n1") == set(FIRST), "three vote")


def test_a_newcomer_whose_host_key_is_not_known_or_another_one_is_refused(mesh, address, guest_key):
    asked = [f"join=root@{address['n4']}", guest_key]
    for known_hosts in ("", f"{address['n4']} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEdrb3ZsZXIgYW5kIG5vbmUgZWxzZSBidXQgdGhpcw=="):
        mesh.node("n1").check_output("printf '%%s\\n' %s >/root/.ssh/known_hosts", known_hosts)
        run = on_node(mesh, "n1", "join", *asked)
        assert run.rc != 0
        assert "its SSH host key is not the one that is known here, or none is known" in flat(run.stdout + run.stderr)
    assert not mesh.node("n4").file("/etc/vdloo-mesh").exists
    assert set(registry(mesh, "n1")) == set(FIRST)


def test_a_newcomer_joins_from_a_node_while_another_one_is_down_which_learns_it_on_its_return(mesh, address, guest_key):
    mesh.container("n3").stop(timeout=20)
    mesh.node("n1").check_output("ssh-keyscan -t ed25519 %s >/root/.ssh/known_hosts 2>/dev/null", address["n4"])
    asked = [f"join=root@{address['n4']}", f"join_endpoints={address['n4']}:4321", guest_key]
    # What the command would do, and does not.
    dry = mesh.node("n1").run(f"vdloo-mesh-playbook vdloo.mesh.join --check {' '.join('-e ' + shlex.quote(text) for text in asked)}")
    assert not mesh.node("n4").file("/etc/vdloo-mesh").exists, dry.stdout
    run = on_node(mesh, "n1", "join", *asked)
    assert "n4 is a member of the mesh now" in flat(run.stdout), run.stdout + run.stderr
    assert states(mesh, "n2")["n4"] == "member"
    record = registry(mesh, "n2")["n4"]
    assert (record["ssh"]["user"], record["ssh"]["port"]) == ("root", 22)
    assert record["endpoints"] == [{"address": f"{address['n4']}:4321", "zone": "public"}]
    mesh.container("n3").start()
    mesh._connections.pop("n3", None)
    mesh.wait_for(lambda: mesh.node("n3").run("true").rc == 0, "n3 answers by SSH")
    mesh.wait_for(lambda: is_settled(mesh, (*FIRST, "n4")), "n3 knows n4", PERIOD + WORK)
    mesh.forget()
    assert mesh.pings("n3", "n4")
    assert mesh.node("n4").check_output("systemctl is-active %s", TIMER) == "active"
    # n4 may have taken the vote of n3: as long as it was away, or for good. Who gives its vote back is away for a moment, and no server then:
    # that all are there is asked last.
    mesh.wait_for(
        lambda: (
            len(servers(mesh, "n1")) == 3
            and servers(mesh, "n1") == voters(mesh, "n1") == set(mesh.raft("n1"))
            and is_settled(mesh, (*FIRST, "n4"))
        ),
        "three vote, and nobody else is a server",
        2 * PERIOD + WORK,
    )


def test_a_member_that_is_asked_to_join_is_only_converged(mesh, tmp_path, address):
    before = core_pids(mesh, "n4")
    run = outside(mesh, tmp_path, "join", f"join={address['n4']}")
    assert run.code == 0, run.output
    assert "n4: a member of this mesh already" in flat(run.output)
    assert core_pids(mesh, "n4") == before


def test_a_name_that_is_taken_is_refused(mesh, tmp_path, address):
    run = outside(mesh, tmp_path, "join", f"join={address['n5']}", "join_name=n2")
    assert run.code != 0
    assert "the name n2 is that of a member with another key" in flat(run.output)
    assert not mesh.node("n5").file("/etc/vdloo-mesh").exists


def test_a_machine_of_another_mesh_is_refused(mesh, tmp_path, address):
    secrets = json.dumps({"generation": "another", "gossip_key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "seeds": ["x"]})
    mesh.node("n5").check_output("mkdir -p /etc/vdloo-mesh && printf %%s %s >/etc/vdloo-mesh/secrets.json", secrets)
    try:
        run = outside(mesh, tmp_path, "join", f"join={address['n5']}")
        assert run.code != 0
        assert "it belongs to another mesh" in flat(run.output)
        assert json.loads(mesh.node("n5").check_output("cat /etc/vdloo-mesh/secrets.json"))["generation"] == "another"
    finally:
        mesh.node("n5").check_output("rm -r /etc/vdloo-mesh")
    assert set(registry(mesh, "n1")) == {*FIRST, "n4"}


@pytest.mark.slow
def test_a_machine_that_only_dials_out_joins_by_itself_through_any_member(mesh, address):
    private = (ROOT / ".cache" / "testbed" / "id_ed25519").read_text()
    node = mesh.node("n5")
    node.check_output("mkdir -p /root/.ssh && printf %%s %s >/root/.ssh/id_ed25519 && chmod 600 /root/.ssh/id_ed25519", private)
    node.check_output("ssh-keyscan -t ed25519 %s >/root/.ssh/known_hosts 2>/dev/null", address["n2"])
    # Programs that come from a file are there under the same path, as on any machine that runs Ansible.
    for program, source in (("cjdroute", ROOT / "tests/doubles/cjdroute"), ("consul", ROOT / ".cache/consul")):
        place = {"cjdroute": "/usr/local/bin/cjdroute", "consul": "/usr/local/bin/consul"}[program]
        pipe = f"mkdir -p {source.parent} && scp -q root@{address['n2']}:{place} {source}"
        node.check_output(pipe)
    run = node.run(
        f"cd /opt/mesh && VDLOO_MESH_BOOTSTRAP=root@{address['n2']} ANSIBLE_NOCOLOR=1 ansible-playbook -i inventory/mesh.yml playbooks/join.yml"
        " -e join=localhost -e join_server_eligible=false"
    )
    assert run.rc == 0, run.stdout + run.stderr
    record = registry(mesh, "n1")["n5"]
    assert (record["ssh"]["user"], record["ssh"]["port"], record["endpoints"]) == ("root", 22, [])
    assert record["ssh"]["host_key"] in node.check_output("cat /etc/ssh/ssh_host_ed25519_key.pub")
    mesh.wait_for(lambda: is_settled(mesh, (*FIRST, "n4", "n5")), "all know n5", 2 * PERIOD + WORK)
    mesh.forget()
    assert mesh.pings("n1", "n5")
    # Others log in there over the overlay, although nobody can dial it.
    assert (
        mesh.node("n1").run("cd / && ANSIBLE_CONFIG=/etc/vdloo-mesh/ansible.cfg /opt/vdloo-mesh/venv/current/bin/ansible n5 -m ping").rc
        == 0
    )


def test_a_voter_that_leaves_is_replaced_first_and_nobody_else_is_restarted(mesh, tmp_path, address, third, fourth):
    assert voters(mesh, "n1") == {"n1", "n2", third}
    staying = ("n1", "n2", fourth, *(["n5"] if "n5" in registry(mesh, "n1") else []))
    before = {name: core_pids(mesh, name) for name in staying}
    mesh.node("n1").check_output("nohup ping -6 -i 0.2 %s </dev/null >/root/pings 2>&1 & echo $! >/root/ping.pid", mesh.address("n2"))
    run = on_node(mesh, "n1", "leave", f"leave={third}")
    mesh.node("n1").run("kill -INT $(cat /root/ping.pid); sleep 0.5")
    assert run.rc == 0, run.stdout + run.stderr
    # The last one may have been under way when the command was stopped.
    answered = [int(number) for number in re.findall(r"icmp_seq=(\d+)", mesh.node("n1").check_output("cat /root/pings"))]
    assert len(answered) > 20
    assert answered == list(range(1, len(answered) + 1))
    for name in staying:
        now = core_pids(mesh, name)
        assert now["cjdns"] == before[name]["cjdns"], f"cjdns of {name} was restarted"
        assert now["consul"] == before[name]["consul"] or name == fourth, f"Consul of {name} was restarted"
    assert set(mesh.raft("n1")) == voters(mesh, "n1") == {"n1", "n2", fourth}
    mesh.wait_for(lambda: is_settled(mesh, staying), f"{third} is nowhere any more", PERIOD + WORK)
    assert states(mesh, "n1")[third] == states(mesh, third)[third] == "left"
    # Its key and not its name: two letters are found in the keys of the others, now and then.
    assert registry(mesh, "n1")[third]["public_key"] not in mesh.node("n1").check_output("cat /etc/cjdroute.conf")


def test_a_node_that_left_runs_nothing_of_the_mesh_and_still_resolves_ordinary_names(mesh, third):
    node = mesh.node(third)
    mesh.wait_for(lambda: node.run("systemctl is-active cjdns").stdout.strip() == "inactive", "cjdns is stopped", 30)
    for unit in ("cjdns", "consul", "mesh-names", "dnsmasq-mesh", "h2o", TIMER):
        assert node.run("systemctl is-active %s", unit).stdout.strip() == "inactive"
        assert node.run("systemctl is-enabled %s", unit).stdout.strip() != "enabled"
    assert node.run("getent hosts %s", mesh.hosts[third]["testbed_container"]).rc == 0
    assert key_names(mesh, third) == set()
    assert node.file("/var/lib/consul").is_directory


def test_an_inventory_that_still_has_it_does_not_take_it_in_again(mesh, tmp_path, third, fourth):
    run = playbook(inventory(mesh, tmp_path, "n1", "n2", third, fourth), ROOT / "site.yml")
    assert run.code == 0, run.output
    assert f"{third} answers, and the registry says left: it is left alone" in flat(run.output)
    assert run.changed[third] == 0
    assert states(mesh, "n1")[third] == "left"


@pytest.mark.slow
def test_a_node_that_left_comes_back_as_it_was(mesh, tmp_path, address, third, fourth):
    before = mesh.registry[third]["public_key"]
    run = outside(mesh, tmp_path, "join", f"join={address[third]}", f"join_endpoints={address[third]}:4321", hosts=("n1", "n2", fourth))
    assert run.code == 0, run.output
    mesh.wait_for(lambda: is_settled(mesh, ("n1", "n2", third, fourth, "n5")), f"{third} is back", 2 * PERIOD + WORK)
    assert registry(mesh, "n1")[third]["public_key"] == before
    checks = json.loads(mesh.node(third).check_output("curl -s http://127.0.0.1:8500/v1/agent/checks"))
    assert "_node_maintenance" not in checks


@pytest.mark.slow
def test_a_node_leaves_on_itself_and_the_others_take_its_links_away(mesh, third, fourth):
    # It comes with what the others hand over, as this machine has nothing for it.
    mesh.wait_for(lambda: mesh.node("n5").file("/usr/local/sbin/vdloo-mesh-playbook").exists, "n5 can run Ansible", 2 * PERIOD + WORK)
    run = on_node(mesh, "n5", "leave", "leave=n5")
    assert run.rc == 0, run.stdout + run.stderr
    mesh.wait_for(lambda: is_settled(mesh, ("n1", "n2", third, fourth)), "n5 is nowhere any more", 2 * PERIOD + WORK)
    assert states(mesh, "n1")["n5"] == "left"


@pytest.mark.slow
def test_a_node_that_does_not_answer_is_let_go_on_request_only(mesh, tmp_path, third, fourth):
    mesh.container(fourth).stop(timeout=20)
    mesh.wait_for(lambda: mesh.members("n1")[fourth] != "alive", f"{fourth} is missed", 60)
    refused = on_node(mesh, "n1", "leave", f"leave={fourth}")
    assert refused.rc != 0
    assert f"{fourth} does not answer, and has to do its part" in flat(refused.stdout + refused.stderr)
    assert states(mesh, "n1")[fourth] == "member"
    run = on_node(mesh, "n1", "leave", f"leave={fourth}", "leave_gone=true")
    assert run.rc == 0, run.stdout + run.stderr
    assert states(mesh, "n2")[fourth] == "left"
    mesh.container(fourth).start()
    mesh._connections.pop(fourth, None)
    mesh.wait_for(lambda: mesh.node(fourth).run("true").rc == 0, f"{fourth} answers by SSH")
    # It comes back and believes that it is a member; nobody else does.
    mesh.wait_for(lambda: is_settled(mesh, ("n1", "n2", third)), "the others are among themselves", 2 * PERIOD + WORK)
    assert not mesh.pings("n1", fourth)
    mesh.wait_for(lambda: voters(mesh, "n1") == {"n1", "n2", third}, f"{third} has its vote", 2 * PERIOD + WORK)


@pytest.mark.slow
def test_the_last_quorum_is_not_given_away(mesh, tmp_path, third):
    mesh.container("n2").stop(timeout=20)
    try:
        mesh.wait_for(lambda: mesh.members("n1")["n2"] == "failed", "n2 is missed", 60)
        # It may have been the leader, and a new one needs a while until it finds the others well.
        mesh.wait_for(lambda: mesh.well("n1") == {"n1", third}, f"n1 and {third} are well", 60)
        refused = outside(mesh, tmp_path, "leave", f"leave={third}")
        assert refused.code != 0
        assert f"{third} cannot leave now: the 2 voters that stay would have no quorum: n2 is not well" in flat(refused.output), (
            refused.output
        )
        assert states(mesh, "n1")[third] == "member"
        assert voters(mesh, "n1") == {"n1", "n2", third}
    finally:
        mesh.container("n2").start()
        mesh._connections.pop("n2", None)
    mesh.wait_for(lambda: mesh.node("n2").run("true").rc == 0, "n2 answers by SSH")
    mesh.wait_for(lambda: is_settled(mesh, ("n1", "n2", third)), "n2 is back", 2 * PERIOD + WORK)
    mesh.wait_for(lambda: mesh.well("n1") == {"n1", "n2", third}, "all are well", 60)


@pytest.mark.slow
def test_a_wipe_leaves_an_archive_and_nothing_of_the_users(mesh, tmp_path, third):
    node = mesh.node(third)
    node.check_output("echo mine >/etc/h2o/mine.conf && echo mine >/etc/consul.d/mine.txt")
    run = outside(mesh, tmp_path, "leave", f"leave={third}", "leave_wipe=true")
    assert run.code == 0, run.output
    archive = node.check_output(f"ls /var/backups/vdloo-mesh-{third}-*.tar.gz")
    assert "\n" not in archive
    assert node.file(archive).mode == 0o600
    listed = node.check_output("tar -tzf %s", archive).splitlines()
    for path in (
        "etc/vdloo-mesh/secrets.json",
        "var/lib/vdloo-mesh/registry.json",
        "etc/cjdns/identity.json",
        "etc/consul.d/consul.json",
        "var/lib/consul",
    ):
        assert path in [line.rstrip("/") for line in listed], path
    for path in (
        "/etc/vdloo-mesh",
        "/var/lib/vdloo-mesh",
        "/etc/cjdns",
        "/var/lib/consul",
        "/etc/h2o/mesh.conf",
        "/etc/consul.d/secrets.json",
    ):
        assert not node.file(path).exists, path
    for path in ("/etc/h2o/mine.conf", "/etc/consul.d/mine.txt", "/usr/local/bin/consul"):
        assert node.file(path).exists, path
    assert node.run("getent hosts %s", mesh.hosts[third]["testbed_container"]).rc == 0
    assert voters(mesh, "n1") == {"n1", "n2"}
