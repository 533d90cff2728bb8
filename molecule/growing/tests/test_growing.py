# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A mesh that grows from five nodes to nine, loses a voter, gets it back, and loses its quorum. The tests build on each other."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

import pytest
import yaml
from mesh import ROOT, Run, lost, playbook

FIRST = ("cloud1", "cloud2", "office1", "office2", "home1")
SIXTH = "office3"
OTHERS = ("cloud3", "home2", "phone")
ALL = (*FIRST, SIXTH, *OTHERS)

# Writes the number of healthy voters and the number of all, once a second, as the leader sees them.
WATCH = """
import json, time, urllib.error, urllib.request
while True:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8500/v1/operator/autopilot/health", timeout=5) as reply:
            text = reply.read()
    except urllib.error.HTTPError as error:
        text = error.read()
    except OSError:
        continue
    try:
        voters = [server for server in json.loads(text)["Servers"] if server["Voter"]]
        print(sum(server["Healthy"] for server in voters), len(voters), flush=True)
    except (ValueError, KeyError, TypeError):
        pass
    time.sleep(0.5)
"""


def site(mesh, folder: Path, *names: str) -> Run:
    """Run site.yml with an inventory of these hosts alone."""
    inventory = yaml.safe_load(mesh.inventory.read_text())
    inventory["mesh"]["hosts"] = {name: inventory["mesh"]["hosts"][name] for name in names}
    path = folder / "hosts.yml"
    path.write_text(yaml.safe_dump(inventory))
    return playbook(path, ROOT / "site.yml")


def voters(mesh, name: str) -> set[str]:
    return {peer for peer, (_state, voter) in mesh.raft(name).items() if voter}


def servers(mesh, name: str) -> set[str]:
    """The servers among the members that are alive."""
    found = json.loads(mesh.node(name).check_output("curl -s http://127.0.0.1:8500/v1/agent/members"))
    return {member["Name"] for member in found if member["Status"] == 1 and member["Tags"].get("role") == "consul"}


def core_pids(mesh, name: str) -> dict[str, str]:
    """What tells whether cjdns or Consul was restarted."""
    return {daemon: value for daemon, value in mesh.pids(name).items() if daemon in ("cjdns", "consul")}


def wait_for_members(mesh, seen_from: str, alive: set[str]) -> None:
    mesh.wait_for(
        lambda: {name for name, status in mesh.members(seen_from).items() if status == "alive"} == alive, f"{seen_from} sees {alive}"
    )


@pytest.fixture
def watched(mesh):
    """Watch the voters' health from one node, and return the pairs (healthy, all) that were seen."""
    mesh.node("cloud1").check_output("systemd-run --unit=watch --property=StandardOutput=truncate:/root/watch python3 -c %s", WATCH)

    def seen() -> list[tuple[int, int]]:
        lines = mesh.node("cloud1").check_output("cat /root/watch").splitlines()
        return [(int(healthy), int(every)) for healthy, every in map(str.split, lines)]

    yield seen
    mesh.node("cloud1").run("systemctl stop watch; systemctl reset-failed watch")


def assert_never_at_half(seen: list[tuple[int, int]]) -> None:
    """At two samples a second, a run of half a minute and more gives dozens."""
    assert len(seen) >= 20, seen
    assert all(healthy > every // 2 for healthy, every in seen), seen


def test_five_nodes_make_a_mesh_of_five_voters(mesh, tmp_path):
    run = site(mesh, tmp_path, *FIRST)
    assert run.code == 0, run.output
    mesh.wait_for(lambda: voters(mesh, "home1") == set(FIRST), "all five vote")
    wait_for_members(mesh, "cloud1", set(FIRST))


def test_a_sixth_node_restarts_nothing_on_the_five_and_costs_no_ping(mesh, tmp_path):
    before = {name: core_pids(mesh, name) for name in FIRST}
    mesh.node("home1").check_output(
        "nohup ping -6 -i 0.2 %s </dev/null >/root/pings 2>&1 & echo $! >/root/ping.pid", mesh.address("office2")
    )
    run = site(mesh, tmp_path, *FIRST, SIXTH)
    mesh.node("home1").run("kill -INT $(cat /root/ping.pid); sleep 0.5")
    pings = mesh.node("home1").check_output("cat /root/pings")
    assert run.code == 0, run.output
    assert {name: core_pids(mesh, name) for name in FIRST} == before
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", pings).groups())
    # Five a second: not one second without an answer.
    assert sent > 20 and sent - received <= 5, (sent, received)
    wait_for_members(mesh, "cloud1", {*FIRST, SIXTH})
    assert voters(mesh, "cloud1") == set(FIRST)
    assert servers(mesh, "cloud1") == set(FIRST)
    mesh.forget()
    for name in FIRST:
        mesh.wait_for(lambda name=name: mesh.pings(name, SIXTH), f"{name} reaches {SIXTH}", 30)


def test_of_nine_nodes_five_vote_at_three_sites_and_four_are_clients(mesh, tmp_path):
    before = {name: core_pids(mesh, name) for name in (*FIRST, SIXTH)}
    run = site(mesh, tmp_path, *ALL)
    assert run.code == 0, run.output
    mesh.forget()
    wait_for_members(mesh, "phone", set(ALL))
    assert voters(mesh, "phone") == set(FIRST)
    assert servers(mesh, "phone") == set(FIRST)
    assert {name: core_pids(mesh, name) for name in (*FIRST, SIXTH)} == before
    again = site(mesh, tmp_path, *ALL)
    assert set(again.changed.values()) == {0}, again.output


def stale(mesh, name: str) -> bool:
    return json.loads(mesh.node(name).run("mesh-names --status --json").stdout)["stale"]


def remembers(mesh, name: str) -> set[str]:
    """The nodes with the service web that a node would answer with if Consul were gone. That follows Consul by some seconds."""
    return {
        instance[0] for instance in json.loads(mesh.node(name).check_output("cat /var/lib/mesh-names/snapshot.json"))["services"]["web"]
    }


@pytest.fixture
def _web(mesh):
    """The service web on two of the clients."""
    for name in ("cloud3", "phone"):
        mesh.node(name).check_output("systemd-run --collect --unit=test-web python3 /opt/mesh/tests/web/web.py %s 8080", name)
        mesh.node(name).check_output("consul services register -name=web -port=8080")
    yield
    for name in ("cloud3", "phone"):
        mesh.node(name).check_output("consul services deregister -id=web && systemctl stop test-web")


@pytest.mark.usefixtures("_web")
def test_without_any_server_names_and_requests_go_on_where_the_agents_are_clients_too(mesh):
    # The agents of these live, and have nobody to ask. Those of the servers are gone.
    asked = (SIXTH, "phone", "cloud1")
    expected = {"web.service.consul": {"cloud3", "phone"}, "home1.mesh": {"home1"}, "office3.node.consul": {SIXTH}}
    for name in asked:
        mesh.wait_for(lambda name=name: mesh.found(name, *expected) == expected, f"{name} finds all", 20)
        mesh.wait_for(lambda name=name: remembers(mesh, name) == {"cloud3", "phone"} and not stale(mesh, name), f"{name} knows all", 20)
    with contextlib.ExitStack() as stack:
        answers = {name: stack.enter_context(mesh.requests(name, pause=0.2)) for name in asked}
        for name in FIRST:
            mesh.node(name).check_output("systemctl stop --no-block consul")
        try:
            mesh.wait_for(lambda: all(stale(mesh, name) for name in asked), "all three say that they are stale", 30)
            for _round in range(3):
                assert {name: mesh.found(name, *expected) for name in asked} == dict.fromkeys(asked, expected)
                time.sleep(2)
        finally:
            for name in FIRST:
                mesh.node(name).check_output("systemctl start --no-block consul")
        mesh.wait_for(lambda: not any(stale(mesh, name) for name in asked), "all three are fresh again", 30)
    assert min(map(len, answers.values())) > 20
    assert {name: lost(given) for name, given in answers.items()} == {name: [] for name in asked}
    mesh.wait_for(lambda: mesh.well("cloud1") == set(FIRST), "all servers are well")


def test_a_dead_voter_is_replaced_by_a_node_of_its_site_that_may_be_one(mesh, tmp_path, watched):
    mesh.container("home1").stop(timeout=20)
    # By all: a voter that anybody still sees alive keeps its vote.
    for name in set(ALL) - {"home1"}:
        mesh.wait_for(lambda name=name: mesh.members(name).get("home1") != "alive", f"{name} knows that home1 is gone")
    # It may have been the leader, and without one no server is changed.
    mesh.wait_for(lambda: mesh.well("cloud1") >= set(FIRST) - {"home1"}, "the others are well")
    run = site(mesh, tmp_path, *ALL)
    assert "home1" in run.output and "unreachable=1" in run.output, run.output
    assert "promote home2" in " ".join(run.output.split()), run.output
    wanted = {"cloud1", "cloud2", "office1", "office2", "home2"}
    mesh.wait_for(lambda: voters(mesh, "cloud1") == wanted, "home2 votes in place of home1", 120)
    assert_never_at_half(watched())


def test_a_voter_that_comes_back_does_not_put_its_substitute_out(mesh, tmp_path, watched):
    mesh.container("home1").start()
    mesh._connections.pop("home1", None)
    mesh.wait_for(lambda: mesh.node("home1").run("true").rc == 0, "home1 answers by SSH")
    wait_for_members(mesh, "cloud1", set(ALL))
    run = site(mesh, tmp_path, *ALL)
    assert run.code == 0, run.output
    wanted = {"cloud1", "cloud2", "office1", "office2", "home2"}
    mesh.wait_for(lambda: voters(mesh, "cloud1") == wanted, "five vote, and home1 is not one of them", 120)
    mesh.wait_for(lambda: servers(mesh, "cloud1") == wanted, "home1 is a client")
    assert_never_at_half(watched())


def test_a_run_while_the_quorum_is_lost_changes_nothing_of_consul_and_says_what_it_needs(mesh, tmp_path):
    gone = ("office1", "office2", "home2")
    state = "sha256sum /etc/consul.d/*.json; ls /var/lib/consul /var/lib/consul/raft; cat /var/lib/consul/node-id"
    for name in gone:
        mesh.container(name).stop(timeout=20)
    try:
        mesh.wait_for(
            lambda: (
                mesh.node("cloud1").run("curl -sf http://127.0.0.1:8500/v1/kv/nothing").rc == 22
                and mesh.node("cloud1").run("curl -s http://127.0.0.1:8500/v1/status/leader").stdout.strip() == '""'
            ),
            "the leader is lost",
        )
        before = {name: mesh.node(name).check_output(state) for name in ("cloud1", "cloud2")}
        run = site(mesh, tmp_path, *ALL)
        told = " ".join(run.output.split())
        assert "the quorum is lost" in told, run.output
        for name in gone:
            assert re.search(rf"needs 3 of [a-z0-9, ]*{name}", told), run.output
        assert {name: mesh.node(name).check_output(state) for name in before} == before
        # What needs no agreement is still there.
        assert mesh.pings("cloud1", "phone")
    finally:
        for name in gone:
            mesh.container(name).start()
            mesh._connections.pop(name, None)
    for name in gone:
        mesh.wait_for(lambda name=name: mesh.node(name).run("true").rc == 0, f"{name} answers by SSH")
    mesh.wait_for(lambda: len(voters(mesh, "cloud1")) == 5, "there is a quorum again", 120)
    last = site(mesh, tmp_path, *ALL)
    assert last.code == 0, last.output
