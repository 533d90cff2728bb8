# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""New settings come to one node first, and what is wrong with them stays there."""

from __future__ import annotations

import json
import re
import threading

import pytest
from helpers import NODES, edit_file, hold, let_go, run_by_hand

FILES = (
    "sha256sum /etc/cjdroute.conf /etc/consul.d/*.json /etc/dnsmasq-mesh/* /etc/h2o/* /etc/systemd/system/*.service"
    " /var/lib/vdloo-mesh/registry.json /var/lib/vdloo-mesh/settings.json"
)
SETTINGS = "cat /var/lib/vdloo-mesh/settings.json"
MARK = "/run/vdloo-mesh/rollout.json"
DAEMONS = ("cjdns", "consul", "mesh-names", "dnsmasq-mesh", "h2o")
# The first by name of those that are no Consul servers, in a mesh in which all are well: of four that may be servers, three are.
CANARY = "n4"
OTHERS = tuple(name for name in NODES if name != CANARY)
HEALER = "n1"


@pytest.fixture(scope="module", autouse=True)
def _set_up(mesh):
    """The mesh as the inventory has it, before and after; nobody else is at it meanwhile."""
    run = mesh.site()
    assert run.code == 0, run.output
    hold(mesh, *NODES)
    for name in NODES:
        mesh.node(name).check_output("rm -f %s", MARK)
    yield
    run = mesh.site()
    let_go(mesh, *NODES)
    assert run.code == 0, run.output


def state(mesh, name: str) -> tuple:
    return mesh.node(name).check_output(FILES), mesh.pids(name)


def connections(mesh, name: str) -> int:
    return int(re.search(r"max-connections\"?: (\d+)", mesh.node(name).file("/etc/h2o/mesh.conf").content_string)[1])


def flat(text: str) -> str:
    return " ".join(text.split())


def assert_stopped(run, untouched) -> None:
    assert run.code != 0, run.output
    said = re.search(r"The rollout stopped at (.*?), which failed.*?Left as they were: (.*?)\. The mesh does not keep", flat(run.output))
    assert said, run.output
    assert (said[1], sorted(said[2].split(", "))) == (CANARY, sorted(untouched))


def assert_brought_back(mesh, files: str) -> None:
    """A run of the mesh's own ends what the stopped one began, and has nothing to do after that."""
    code, told = run_by_hand(mesh, HEALER)
    assert code == 0, told
    assert mesh.node(CANARY).check_output(FILES) == files
    for daemon in DAEMONS:
        mesh.wait_for(lambda daemon=daemon: mesh.node(CANARY).run("systemctl is-active --quiet %s", daemon).rc == 0, f"{daemon} runs")
    mesh.wait_for(lambda: mesh.members(CANARY) == dict.fromkeys(NODES, "alive"), f"{CANARY} is a member")
    code, told = run_by_hand(mesh, HEALER)
    assert (code, told["outcome"], told["changed"]) == (0, "converged", []), told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        pytest.param({"h2o_config": {"no-such-command": 1}}, "unknown command: no-such-command", id="h2o-refused"),
        # Where Consul listens.
        pytest.param(
            {"h2o_config": {"listen": [{"port": 80}, {"host": "127.0.0.1", "port": 8500}]}},
            "The files from before are back.",
            id="h2o-port",
            marks=pytest.mark.slow,
        ),
        pytest.param({"consul_config": {"no_such_key": 1}}, "no_such_key", id="consul-refused", marks=pytest.mark.slow),
        pytest.param(
            {"consul_config": {"log_file": "/root/not-for-consul/"}},
            "The previous files were put back, and the agent runs with them.",
            id="consul-file",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"dnsmasq_config": ["user=nosuchuser"]}, "The files of dnsmasq from before are back.", id="dnsmasq-user", marks=pytest.mark.slow
        ),
        pytest.param({"node_packages": ["no-such-package"]}, "no-such-package", id="package", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_setting_stops_at_the_canary_and_the_mesh_takes_it_back(mesh, setting, told):
    before = {name: state(mesh, name) for name in NODES}
    run = mesh.site("--extra-vars", json.dumps(setting))
    assert_stopped(run, OTHERS)
    assert f"canary: {CANARY} first, then" in run.output
    assert told in flat(run.output), run.output
    assert {name: state(mesh, name) for name in OTHERS} == {name: before[name] for name in OTHERS}
    assert json.loads(mesh.node(CANARY).check_output("cat %s", MARK))["stopped"]
    assert_brought_back(mesh, before[CANARY][0])
    assert {name: state(mesh, name) for name in OTHERS} == {name: before[name] for name in OTHERS}


def while_it_is_tried(mesh, act, setting: dict):
    """Run site.yml with a setting, and do something to the canary as soon as it is tried there."""
    mesh.node(CANARY).run("rm -f %s", MARK)

    def wait_and_act():
        mesh.wait_for(lambda: mesh.container(CANARY).exec_run(["test", "-e", MARK]).exit_code == 0, "the canary has its turn", 180)
        act(mesh.container(CANARY))

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        return mesh.site("--extra-vars", json.dumps(setting))
    finally:
        thread.join()


@pytest.mark.slow
def test_what_goes_wrong_beside_the_changed_role_is_found_by_the_second_look(mesh):
    before = {name: state(mesh, name) for name in NODES}
    run = while_it_is_tried(
        mesh, lambda container: container.exec_run(["systemctl", "stop", "dnsmasq-mesh"]), {"h2o_config": {"max-connections": 1001}}
    )
    assert_stopped(run, OTHERS)
    assert f"{CANARY} is not well with the new settings: dnsmasq: dnsmasq-mesh.service does not run" in flat(run.output), run.output
    assert "does not run" in json.loads(mesh.node(CANARY).check_output("cat %s", MARK))["stopped"]
    assert {name: state(mesh, name) for name in OTHERS} == {name: before[name] for name in OTHERS}
    assert_brought_back(mesh, before[CANARY][0])


@pytest.mark.slow
def test_a_canary_that_vanishes_stops_the_rollout(mesh):
    before = {name: state(mesh, name) for name in NODES}
    run = while_it_is_tried(mesh, lambda container: container.kill(), {"h2o_config": {"max-connections": 1002}})
    try:
        assert "unreachable=1" in run.output, run.output
        assert_stopped(run, OTHERS)
        assert {name: state(mesh, name) for name in OTHERS} == {name: before[name] for name in OTHERS}
    finally:
        mesh.container(CANARY).start()
        mesh._connections.pop(CANARY, None)
    mesh.wait_for(lambda: mesh.node(CANARY).run("true").rc == 0, f"{CANARY} answers by SSH")
    mesh.wait_for(lambda: mesh.members(HEALER) == dict.fromkeys(NODES, "alive"), f"{CANARY} is a member")
    assert_brought_back(mesh, before[CANARY][0])


def test_a_right_setting_comes_to_all_and_is_kept(mesh):
    setting = json.dumps({"h2o_config": {"max-connections": 1003}})
    # What an earlier test has left.
    mesh.node(CANARY).run("rm -f %s", MARK)
    plan = mesh.site("--check", "--extra-vars", setting)
    assert (plan.code, mesh.node(CANARY).run("ls %s", MARK).stdout) == (0, ""), plan.output
    run = mesh.site("--extra-vars", setting)
    assert run.code == 0, run.output
    order = re.findall(
        r"^(?:ok|changed): \[(n\d)\]", "\n".join(re.findall(r"TASK \[Verify that .*?(?=^(?:TASK|PLAY) )", run.output, re.M | re.S)), re.M
    )
    assert order[0] == CANARY and sorted(order) == sorted(NODES), run.output
    for text in (plan.output, run.output):
        assert f"canary: {CANARY} first, then {order[1]}, then" in text
    kept = {mesh.node(name).check_output(SETTINGS) for name in NODES}
    assert len(kept) == 1 and "1003" in kept.pop()
    for name in NODES:
        assert connections(mesh, name) == 1003
        assert mesh.node(name).run("ls %s", MARK).stdout == ""
    code, told = run_by_hand(mesh, HEALER)
    assert (code, told["outcome"], told["changed"]) == (0, "converged", []), told


@pytest.mark.slow
def test_a_setting_that_only_one_of_all_was_given_is_not_kept(mesh):
    before = {name: mesh.node(name).check_output(SETTINGS) for name in NODES}
    run = mesh.site("--limit", "n2", "--extra-vars", json.dumps({"h2o_config": {"max-connections": 1004}}))
    assert run.code == 0, run.output
    assert "The mesh goes on with the settings that it had" in flat(run.output), run.output
    assert connections(mesh, "n2") == 1004
    assert {name: mesh.node(name).check_output(SETTINGS) for name in NODES} == before
    assert run_by_hand(mesh, HEALER)[1]["changed"] == ["n2"]
    assert connections(mesh, "n2") == 1003


@pytest.mark.slow
def test_a_broken_node_does_not_keep_another_from_being_repaired(mesh):
    # In a role that comes before that of the other.
    mesh.node("n2").check_output("mv /etc/cjdroute.conf /root/ && mkdir -p /etc/cjdroute.conf/full")
    is_whole = edit_file(mesh.node("n3"))
    try:
        run = mesh.site("--extra-vars", json.dumps({"h2o_config": {"max-connections": 1003}}))
        assert run.code != 0, run.output
        assert "canary" not in run.output
        assert is_whole()
    finally:
        mesh.node("n2").check_output("rm -r /etc/cjdroute.conf && mv /root/cjdroute.conf /etc/")
    run = mesh.site("--extra-vars", json.dumps({"h2o_config": {"max-connections": 1003}}))
    assert run.code == 0, run.output


@pytest.mark.slow
def test_a_node_on_which_settings_are_tried_is_left_alone_by_the_others(mesh):
    mark = {"by": "tower", "values": "others", "stopped": ""}
    mesh.node(CANARY).check_output("mkdir -p /run/vdloo-mesh && printf %s >%s", json.dumps(mark), MARK)
    is_whole = edit_file(mesh.node(CANARY))
    try:
        assert run_by_hand(mesh, HEALER)[1]["changed"] == []
        assert not is_whole()
        before = {name: state(mesh, name) for name in NODES}
        run = mesh.site("--extra-vars", json.dumps({"h2o_config": {"max-connections": 1005}}))
        assert run.code != 0
        assert "tower is trying other settings right now, since" in flat(run.output), run.output
        assert {name: state(mesh, name) for name in NODES} == before
    finally:
        mesh.node(CANARY).check_output("rm -f %s", MARK)
    assert run_by_hand(mesh, HEALER)[1]["changed"] == [CANARY]
    assert is_whole()
