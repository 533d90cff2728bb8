# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a mesh has to live with: further runs, runs that miss a node, reboots. Each test leaves the mesh whole."""

from __future__ import annotations

import json
import re

import collection
import pytest
from helpers import NODES, whole
from mesh import changes


def serves(mesh, name: str) -> bool:
    return "served by" in mesh.node(name).run("curl -s -m 5 http://127.0.0.1/").stdout


@pytest.fixture(autouse=True)
def _whole_before_and_after(mesh):
    mesh.wait_for(lambda: whole(mesh), "the mesh is whole before the test")
    yield
    mesh.wait_for(lambda: whole(mesh), "the mesh is whole after the test", 120)


def test_a_second_run_changes_nothing_and_restarts_nothing(mesh):
    before = {name: mesh.pids(name) for name in NODES}
    run = mesh.site()
    assert run.code == 0, run.output
    assert {name: run.changed[name] for name in NODES} == dict.fromkeys(NODES, 0), run.output
    assert {name: mesh.pids(name) for name in NODES} == before


def test_the_installed_collection_finds_the_same_mesh_converged(mesh, tmp_path):
    (tmp_path / "build").mkdir()
    collection.install(collection.build(tmp_path / "build"), tmp_path)
    output = collection.run(tmp_path, "ansible-playbook", "vdloo.mesh.site", "-i", str(mesh.inventory))
    assert set(changes(output).values()) == {0}, output


def test_check_mode_of_a_converged_mesh_shows_no_change(mesh):
    run = mesh.site("--check", "--diff")
    assert run.code == 0, run.output
    assert set(run.changed.values()) == {0}, run.output


def test_a_run_that_reaches_one_node_only_takes_nothing_from_the_others(mesh):
    before = {name: mesh.pids(name) for name in NODES}
    run = mesh.site("--limit", "n1")
    assert run.code == 0, run.output
    assert run.changed["n1"] == 0, run.output
    assert {name: mesh.pids(name) for name in NODES} == before


def test_a_rebooted_node_comes_back_by_itself_as_it_was(mesh):
    mesh.node("n1").check_output("consul kv put test/before-reboot kept")
    identity = mesh.node("n3").check_output("sha256sum /etc/cjdns/identity.json")
    address = mesh.address("n3")
    mesh.reboot("n3")
    mesh.wait_for(lambda: address in mesh.node("n3").check_output("ip -6 -o address show"), "n3 has its address again")
    mesh.wait_for(lambda: mesh.pings("n1", "n3") and mesh.pings("n3", "n2"), "n3 is reached again")
    mesh.wait_for(lambda: mesh.node("n3").check_output("consul kv get test/before-reboot") == "kept", "n3 reads the KV again")
    mesh.wait_for(lambda: mesh.node("n3").run("getent ahosts web.service.consul").rc == 0, "n3 resolves the service again")
    mesh.wait_for(lambda: serves(mesh, "n3"), "n3 serves again")
    assert mesh.node("n3").check_output("sha256sum /etc/cjdns/identity.json") == identity
    # systemd breaks a circle of dependencies by leaving a unit out, another one at each boot.
    assert mesh.node("n3").run("journalctl --no-pager | grep 'ordering cycle'").stdout == ""


def test_a_run_after_a_reboot_changes_nothing(mesh):
    before = mesh.pids("n3")
    run = mesh.site()
    assert run.code == 0, run.output
    assert set(run.changed.values()) == {0}, run.output
    assert mesh.pids("n3") == before


def test_the_mesh_survives_the_reboot_of_its_leader(mesh):
    leader = next(name for name, (state, _voter) in mesh.raft("n1").items() if state == "leader")
    mesh.node("n1").check_output("consul kv put test/before-leader-reboot kept")
    mesh.reboot(leader)
    for name in NODES:
        mesh.wait_for(
            lambda name=name: mesh.node(name).check_output("consul kv get test/before-leader-reboot") == "kept", f"{name} reads the KV"
        )


def test_a_run_without_an_unreachable_node_goes_on_and_drops_none_of_its_peers(mesh):
    mesh.container("n2").stop(timeout=20)
    try:
        config = mesh.node("n3").check_output("sha256sum /etc/cjdroute.conf")
        before = {name: mesh.pids(name) for name in ("n1", "n3")}
        run = mesh.site()
        assert "n2" in run.output and "unreachable=1" in run.output, run.output
        assert {name: run.changed[name] for name in ("n1", "n3")} == {"n1": 0, "n3": 0}, run.output
        assert {name: mesh.pids(name) for name in ("n1", "n3")} == before
        assert mesh.node("n3").check_output("sha256sum /etc/cjdroute.conf") == config
    finally:
        mesh.container("n2").start()
        mesh._connections.pop("n2", None)
    mesh.wait_for(lambda: mesh.node("n2").run("true").rc == 0, "n2 answers by SSH")


@pytest.mark.parametrize("daemon", ["cjdns", "consul", "mesh-names", "dnsmasq-mesh", "h2o"])
def test_a_killed_daemon_is_back_by_itself(mesh, daemon):
    before = mesh.node("n2").check_output("systemctl show -p MainPID --value %s", daemon)
    mesh.node("n2").check_output("kill -9 %s", before)
    mesh.wait_for(
        lambda: mesh.node("n2").check_output("systemctl show -p MainPID --value %s", daemon) not in (before, "0"), f"{daemon} is back", 60
    )
    mesh.wait_for(lambda: mesh.pings("n2", "n1") and serves(mesh, "n2"), f"n2 serves after {daemon} was killed", 90)


def test_a_changed_link_restarts_nothing_and_interrupts_no_other(mesh, tmp_path):
    before = {name: mesh.pids(name) for name in NODES}
    configs = {name: mesh.node(name).check_output("sha256sum /etc/cjdroute.conf") for name in NODES}
    # n2 cannot be dialled any more: its link with n3, which never could be, goes. That of n1 and n3 has nothing to do with it.
    moved = tmp_path / "moved.yml"
    moved.write_text(json.dumps({"mesh": {"hosts": {"n2": {"mesh_endpoints": []}}}}))
    mesh.node("n1").check_output("nohup ping -6 -i 0.2 %s </dev/null >/root/pings 2>&1 & echo $! >/root/ping.pid", mesh.address("n3"))
    run = mesh.site("-i", str(moved))
    mesh.node("n1").run("kill -INT $(cat /root/ping.pid); sleep 0.5")
    sent, received = map(
        int, re.search(r"(\d+) packets transmitted, (\d+) received", mesh.node("n1").check_output("cat /root/pings")).groups()
    )
    try:
        assert run.code == 0, run.output
        assert {name: mesh.node(name).check_output("sha256sum /etc/cjdroute.conf") for name in NODES} != configs
        assert {name: mesh.pids(name) for name in NODES} == before
        # Five a second: not one second without an answer.
        assert sent > 20 and sent - received <= 5, (sent, received)
        mesh.wait_for(lambda: mesh.pings("n2", "n3") and mesh.pings("n3", "n2"), "n2 and n3 reach each other through n1", 20)
    finally:
        back = mesh.site()
    assert back.code == 0, back.output
    assert {name: mesh.pids(name) for name in NODES} == before
    assert {name: mesh.node(name).check_output("sha256sum /etc/cjdroute.conf") for name in NODES} == configs
