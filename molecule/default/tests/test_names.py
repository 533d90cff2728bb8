# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names go on, whatever happens to Consul and to what is in front of it. Each test leaves the mesh whole."""

from __future__ import annotations

import ipaddress
import json

import pytest

NODES = ("n1", "n2", "n3")
WEB = {"n1", "n2"}
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
        owners = {address(mesh, owner): owner for owner in NODES}
        other = mesh.hosts["n2" if name == "n1" else "n1"]["testbed_container"]
        web, own, ordinary, served, status = mesh.node(name).run(LOOK % ("n3", other)).stdout.split("\n", 4)
        self.instances = {owners[found] for found in web.split()}
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


def address(mesh, name: str) -> str:
    return str(ipaddress.ip_address(mesh.address(name)))


def wait_until_fresh(mesh, *names: str, seconds: float = 60) -> None:
    for name in names or NODES:
        mesh.wait_for(lambda name=name: Look(mesh, name).fresh, f"names are fresh on {name}", seconds)


@pytest.fixture(scope="module", autouse=True)
def _fresh_at_first(mesh):
    wait_until_fresh(mesh)


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_name_of_its_own_in_both_directions(mesh, name):
    own = " ".join(f"{other}.mesh AAAA -x {address(mesh, other)}" for other in NODES)
    found = mesh.node(name).check_output("dig +short @127.0.0.1 " + own).split()
    assert found == [part for other in NODES for part in (address(mesh, other), f"{other}.mesh.")]
    assert "NXDOMAIN" in mesh.node(name).check_output("dig @127.0.0.1 nobody.mesh AAAA")


def test_names_and_the_service_go_on_while_all_of_consul_is_stopped(mesh):
    for name in NODES:
        mesh.node(name).check_output("systemctl stop consul")
    try:
        for name in NODES:
            assert Look(mesh, name).all_go_on, name
        mesh.wait_for(lambda: Look(mesh, "n1").status["answers_from"] == "snapshot", "n1 says that it is stale", 15)
        told = mesh.node("n1").run("mesh-names --status")
        assert (told.rc, "STALE" in told.stdout) == (3, True)
    finally:
        for name in NODES:
            mesh.node(name).check_output("systemctl start consul")
    wait_until_fresh(mesh, seconds=30)


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
