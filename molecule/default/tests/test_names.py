# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names go on, whatever happens to Consul and to what is in front of it. Each test leaves the mesh whole."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from helpers import GONE, NODES, SHELL, SHELL_NAME, Look, address, all_fresh, publish
from mesh import lost


def wait_until_fresh(mesh, *names: str, seconds: float = 60) -> None:
    for name in names or NODES:
        mesh.wait_for(lambda name=name: Look(mesh, name).fresh, f"names are fresh on {name}", seconds)


@pytest.fixture(scope="module", autouse=True)
def _fresh_at_first(mesh):
    wait_until_fresh(mesh)


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_name_of_its_own_in_both_directions(mesh, name):
    own = " ".join(f"{other}.mesh AAAA -x {address(mesh, other)}" for other in NODES)
    told = mesh.node(name).check_output("dig +short @127.0.0.1 " + own).split()
    assert told == [part for other in NODES for part in (address(mesh, other), f"{other}.mesh.")]
    assert "NXDOMAIN" in mesh.node(name).check_output("dig @127.0.0.1 nobody.mesh AAAA")


@pytest.mark.parametrize("name", NODES)
def test_mesh_names_may_ping_the_nodes_that_it_answers_with(mesh, name):
    # Without that the unit would run all the same, and the dead would be answered for longer.
    assert Look(mesh, name).status["pings_problem"] == ""


def published(mesh) -> list[str]:
    """All names that the mesh has now: of its services, of those with a tag, and of its nodes."""
    services = json.loads(mesh.node("n1").check_output("curl -s http://127.0.0.1:8500/v1/catalog/services"))
    named = [".".join((*tag, service, "service.consul")) for service, tags in services.items() for tag in [(), *((tag,) for tag in tags)]]
    return [*named, *(f"{name}.{domain}" for name in NODES for domain in ("mesh", "node.consul"))]


def everywhere(mesh, command: str) -> None:
    for name in NODES:
        mesh.node(name).check_output(command)


@pytest.mark.parametrize("seconds", [10, pytest.param(600, marks=pytest.mark.slow)])
def test_names_and_the_service_go_on_while_all_of_consul_is_stopped(mesh, seconds, tmp_path):
    names = published(mesh)
    owners = mesh.found("n1", *names)
    assert all(owners.values()), owners
    try:
        with contextlib.ExitStack() as stack:
            answers = {name: stack.enter_context(mesh.requests(name, pause=0.5)) for name in NODES}
            began = time.monotonic()
            everywhere(mesh, "systemctl stop --no-block consul")
            try:
                mesh.wait_for(lambda: Look(mesh, "n1").status["answers_from"] == "snapshot", "n1 says that it is stale", 15)
                told = mesh.node("n1").run("mesh-names --status")
                assert (told.rc, "STALE" in told.stdout) == (3, True)
                while time.monotonic() < began + seconds:
                    for name in NODES:
                        assert mesh.found(name, *names) == owners, name
                        assert Look(mesh, name).all_go_on, name
                    time.sleep(2)
                everywhere(mesh, "! systemctl is-active --quiet consul")
            finally:
                everywhere(mesh, "systemctl start --no-block consul")
            mesh.wait_for(lambda: all_fresh(mesh), "names are fresh on all nodes", 30)
            everywhere(mesh, "mesh-names --status")
            new = publish(mesh, tmp_path, "n1", [SHELL])
            assert new.code == 0, new.output
            mesh.wait_for(lambda: all(mesh.found(name, SHELL_NAME) == {SHELL_NAME: {"n1"}} for name in NODES), "all find a new service", 20)
    finally:
        gone = publish(mesh, tmp_path, "n1", GONE[:1])
    assert gone.code == 0, gone.output
    assert {name: lost(given) for name, given in answers.items()} == {name: [] for name in NODES}
    assert min(map(len, answers.values())) > seconds


def test_an_agent_that_is_killed_or_hangs_is_not_missed(mesh):
    mesh.node("n3").check_output("systemctl kill --signal=KILL consul")
    assert Look(mesh, "n3").all_go_on
    wait_until_fresh(mesh, "n3", seconds=30)
    mesh.node("n3").check_output("systemctl kill --signal=STOP consul")
    try:
        assert Look(mesh, "n3").all_go_on
    finally:
        mesh.node("n3").check_output("systemctl kill --signal=CONT consul")
    wait_until_fresh(mesh, "n3", seconds=30)


def test_a_killed_mesh_names_takes_no_ordinary_name_away_and_is_back_by_itself(mesh):
    before = mesh.node("n2").check_output("systemctl show -P MainPID mesh-names")
    mesh.node("n2").check_output("kill -9 %s", before)
    assert Look(mesh, "n2").ordinary_names
    wait_until_fresh(mesh, "n2", seconds=20)
    assert mesh.node("n2").check_output("systemctl show -P MainPID mesh-names") not in (before, "0")


@pytest.mark.slow
def test_an_island_answers_with_those_that_it_can_reach(mesh):
    for name in ("n2", "n3"):
        mesh.node(name).check_output("systemctl kill --signal=STOP consul")
    try:
        # Its catalog keeps the dead for as long as there is no leader.
        mesh.wait_for(lambda: Look(mesh, "n1").instances == {"n1"}, "n1 leaves the dead out", 60)
        assert Look(mesh, "n1").serves and Look(mesh, "n1").ordinary_names
        # Nor does it help the agent to start anew.
        mesh.node("n1").check_output("systemctl restart consul")
        mesh.wait_for(lambda: Look(mesh, "n1").instances == {"n1"}, "n1 still knows its own", 30)
    finally:
        for name in ("n2", "n3"):
            mesh.node(name).check_output("systemctl kill --signal=CONT consul")
    wait_until_fresh(mesh, seconds=90)


@pytest.mark.slow
def test_what_is_known_outlives_a_reboot_without_consul(mesh):
    mesh.node("n3").check_output("systemctl disable consul")
    try:
        mesh.reboot("n3")
        mesh.wait_for(lambda: Look(mesh, "n3").all_go_on, "n3 resolves the service, and serves", 60)
        assert Look(mesh, "n3").status["stale"]
    finally:
        mesh.node("n3").check_output("systemctl enable --now consul")
    wait_until_fresh(mesh)
