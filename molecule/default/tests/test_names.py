# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names go on, whatever happens to Consul and to what is in front of it. Each test leaves the mesh whole."""

from __future__ import annotations

import ipaddress
import json

import pytest

NODES = ("n1", "n2", "n3")
WEB = ("n1", "n2")
FRESH, STALE = 0, 3


def resolves(mesh, name: str, wanted: str) -> set[str]:
    """The addresses that a program of a node gets for a name, within the patience of a user."""
    return set(mesh.node(name).run("timeout 4 getent ahosts %s | awk '{print $1}'", wanted).stdout.split())


def instances(mesh, name: str) -> set[str]:
    """On which nodes the service web runs, as a node resolves it."""
    owners = {str(ipaddress.ip_address(mesh.address(owner))): owner for owner in NODES}
    return {owners[address] for address in resolves(mesh, name, "web.service.consul")}


def ordinary_names(mesh, name: str) -> bool:
    return bool(resolves(mesh, name, mesh.hosts["n2" if name == "n1" else "n1"]["testbed_container"]))


def serves(mesh, name: str) -> bool:
    return "served by" in mesh.node(name).run("curl -s -m 5 http://127.0.0.1/").stdout


def status(mesh, name: str) -> dict:
    return json.loads(mesh.node(name).run("mesh-names --status --json").stdout)


def fresh(mesh, name: str) -> bool:
    """Whether Consul answers on a node, and the snapshot of its services is the present one."""
    return mesh.node(name).run("mesh-names --status").rc == FRESH and not status(mesh, name)["snapshot"]["problem"]


@pytest.fixture(autouse=True)
def _fresh_before_and_after(mesh):
    mesh.wait_for(lambda: all(fresh(mesh, name) and instances(mesh, name) == set(WEB) for name in NODES), "names are fresh before")
    yield
    mesh.wait_for(lambda: all(fresh(mesh, name) and instances(mesh, name) == set(WEB) for name in NODES), "names are fresh after", 60)


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_name_of_its_own_in_both_directions(mesh, name):
    for other in NODES:
        address = str(ipaddress.ip_address(mesh.address(other)))
        assert resolves(mesh, name, f"{other}.mesh") == {address}
        assert mesh.node(name).check_output("dig +short @127.0.0.1 -x %s", address) == f"{other}.mesh."
    assert "NXDOMAIN" in mesh.node(name).check_output("dig @127.0.0.1 nobody.mesh AAAA")


def test_names_and_the_service_go_on_while_all_of_consul_is_stopped(mesh):
    for name in NODES:
        mesh.node(name).check_output("systemctl stop consul")
    try:
        for name in NODES:
            assert instances(mesh, name) == set(WEB)
            assert resolves(mesh, name, "n3.mesh") == {str(ipaddress.ip_address(mesh.address("n3")))}
            assert ordinary_names(mesh, name)
            assert serves(mesh, name)
            mesh.wait_for(lambda name=name: mesh.node(name).run("mesh-names --status").rc == STALE, f"{name} says that it is stale", 15)
            assert "STALE" in mesh.node(name).run("mesh-names --status").stdout
            assert status(mesh, name)["answers_from"] == "snapshot"
    finally:
        for name in NODES:
            mesh.node(name).check_output("systemctl start consul")
    for name in NODES:
        mesh.wait_for(lambda name=name: fresh(mesh, name), f"names are fresh on {name}", 30)


def test_an_agent_that_is_killed_or_hangs_is_not_missed(mesh):
    mesh.node("n3").check_output("systemctl kill --signal=KILL consul")
    assert instances(mesh, "n3") == set(WEB)
    mesh.wait_for(lambda: fresh(mesh, "n3"), "names are fresh on n3", 30)
    mesh.node("n3").check_output("systemctl kill --signal=STOP consul")
    try:
        assert instances(mesh, "n3") == set(WEB)
        assert serves(mesh, "n3")
    finally:
        mesh.node("n3").check_output("systemctl kill --signal=CONT consul")


def test_a_killed_mesh_names_takes_no_ordinary_name_away_and_is_back_by_itself(mesh):
    before = mesh.node("n2").check_output("systemctl show -P MainPID mesh-names")
    mesh.node("n2").check_output("kill -9 %s", before)
    assert ordinary_names(mesh, "n2")
    mesh.wait_for(lambda: instances(mesh, "n2") == set(WEB), "n2 resolves the service again", 10)
    assert mesh.node("n2").check_output("systemctl show -P MainPID mesh-names") not in (before, "0")


@pytest.mark.slow
def test_an_island_answers_with_those_that_it_can_reach(mesh):
    for name in ("n2", "n3"):
        mesh.node(name).check_output("systemctl kill --signal=STOP consul")
    try:
        # Its catalog keeps the dead for as long as there is no leader.
        mesh.wait_for(lambda: instances(mesh, "n1") == {"n1"}, "n1 leaves the dead out", 60)
        assert serves(mesh, "n1")
        assert ordinary_names(mesh, "n1")
        # Nor does it help the agent to start anew.
        mesh.node("n1").check_output("systemctl restart consul")
        mesh.wait_for(lambda: instances(mesh, "n1") == {"n1"}, "n1 still knows its own", 30)
    finally:
        for name in ("n2", "n3"):
            mesh.node(name).check_output("systemctl kill --signal=CONT consul")


@pytest.mark.slow
def test_what_is_known_outlives_a_reboot_without_consul(mesh):
    mesh.node("n3").check_output("systemctl disable consul")
    try:
        mesh.reboot("n3")
        mesh.wait_for(lambda: instances(mesh, "n3") == set(WEB), "n3 resolves the service", 30)
        assert status(mesh, "n3")["stale"]
    finally:
        mesh.node("n3").check_output("systemctl enable --now consul")
