# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service of two instances is updated while it is in use. The tests build on each other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from mesh import ENVIRONMENT, ROOT, Run, lost, playbook

ROLLING = ROOT / "playbooks" / "rolling.yml"
TASKS = Path(__file__).resolve().parents[1] / "tasks"
OPTIONS = {
    "rolling_service": "web",
    "rolling_tasks": TASKS / "update.yml",
    "rolling_drain": 3,
    "rolling_steady": 3,
    "rolling_timeout": 30,
}
BACK = {"rolling_rollback_tasks": TASKS / "rollback.yml"}


def arguments(version: str, **options) -> list[str]:
    """What the command of a user has behind the playbook."""
    given = {**OPTIONS, "web_version": version, **options}
    return [part for name, value in given.items() if value is not None for part in ("-e", f"{name}='{value}'")]


def roll(mesh, version: str, *more: str, inventory: Path | None = None, **options) -> Run:
    return playbook(inventory or mesh.inventory, ROLLING, *arguments(version, **options), *more)


@contextlib.contextmanager
def started(mesh, version: str, log):
    """A run that is killed in the end, and writes to a file what it says."""
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(mesh.inventory), str(ROLLING), *arguments(version)]
    with log.open("w") as stream, subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, stdout=stream, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def flat(text: str) -> str:
    return " ".join(text.split())


def get(mesh, name: str, path: str):
    return json.loads(mesh.node(name).check_output("curl -s http://127.0.0.1:8500/v1/%s", path))


def version(mesh, name: str) -> str:
    """What the instance of a node says itself."""
    return mesh.node(name).run("curl -s -m 5 http://127.0.0.1:8080/").stdout.strip()


def in_service(mesh) -> set[str]:
    return {entry["Node"]["Node"] for entry in get(mesh, "n3", "health/service/web?passing")}


def drained(mesh) -> set[str]:
    """Those that a run that has not got to its end is known to have taken out."""
    found = mesh.node("n3").run("curl -s 'http://127.0.0.1:8500/v1/kv/vdloo-mesh/v1/drained/?keys'").stdout
    return {key.rpartition("/")[2] for key in json.loads(found or "[]")}


def both_serve(mesh, wanted: str) -> bool:
    return (
        in_service(mesh) == {"n1", "n2"}
        and drained(mesh) == set()
        and all(version(mesh, name) == f"served by {name} {wanted}" for name in ("n1", "n2"))
    )


@pytest.fixture(scope="module", autouse=True)
def _two_instances(mesh):
    mesh.wait_for(lambda: in_service(mesh) == {"n1", "n2"}, "both instances are in service")
    mesh.wait_for(lambda: mesh.node("n3").run("curl -s http://127.0.0.1/").stdout.startswith("served by"), "n3 answers for them")


def test_bad_input_is_refused_before_anything_is_asked(mesh):
    wrong = {"rolling_service": "no_name", "rolling_tasks": "/no/such/file", "rolling_batch": "all", "rolling_steady": 60}
    run = roll(mesh, "v0", rolling_back="true", **wrong)
    assert run.code != 0
    said = flat(run.output)
    for reason in (
        "Say which service, by its name in Consul",
        "Say what takes an instance back",
        "rolling_tasks: there is no file /no/such/file",
        "rolling_batch: write how many at a time",
        "rolling_timeout and rolling_steady: write seconds, the second less than the first",
    ):
        assert reason in said


def test_check_mode_shows_what_would_be_done_and_drains_nobody(mesh):
    before = [version(mesh, name) for name in ("n1", "n2")]
    run = roll(mesh, "v1", "--check")
    assert run.code == 0, run.output
    assert "web is updated on n1, then n2" in run.output
    assert run.changed["n1"] > 0 and run.changed["n2"] > 0
    assert [version(mesh, name) for name in ("n1", "n2")] == before
    assert (in_service(mesh), drained(mesh)) == ({"n1", "n2"}, set())


def test_no_request_is_lost_while_both_instances_are_updated(mesh):
    with mesh.requests("n3") as answers:
        run = roll(mesh, "v1")
        # The last one is healthy, and names lead there again within seconds.
        mesh.wait_for(lambda: "served by n2 v1" in mesh.node("n3").run("curl -s http://127.0.0.1/").stdout, "n2 is asked again", 20)
    assert run.code == 0, run.output
    assert lost(answers) == []
    counted = Counter(answers)
    assert len(answers) > 100 and {"served by n1 v1 200", "served by n2 v1 200"} <= set(counted), counted
    assert both_serve(mesh, "v1")


def test_an_update_that_fails_stops_at_the_first_instance_and_no_request_is_lost(mesh):
    with mesh.requests("n3") as answers:
        run = roll(mesh, "broken on n1", rolling_timeout=7)
    assert run.code != 0
    said = flat(run.output)
    assert "web on n1 could not be updated: Wait until it is well" in said
    assert "n1: drained, so that nobody is sent there. n2: not touched. Mend what failed" in said
    assert lost(answers) == []
    assert version(mesh, "n2") == "served by n2 v1"
    assert (in_service(mesh), drained(mesh)) == ({"n2"}, {"n1"})


def test_all_go_back_by_one_variable_and_the_failed_one_first(mesh):
    # What was kept of the run tells that it is n1. The mesh itself is the inventory.
    run = roll(mesh, "v2", inventory=mesh.inventory.with_name("mesh.yml"), rolling_back="true", **BACK)
    assert run.code == 0, run.output
    assert "web goes back on n1, then n2" in run.output
    mesh.wait_for(lambda: both_serve(mesh, "v1"), "both serve the version before", 20)


def test_an_instance_stays_drained_when_the_tasks_fail_and_others_of_its_node_do_not(mesh):
    other = json.dumps({"Name": "other", "Port": 9})
    mesh.node("n1").check_output("curl -s -X PUT http://127.0.0.1:8500/v1/agent/service/register -d %s", other)
    run = roll(mesh, "missing")
    assert run.code != 0
    assert "Fail before anything is changed: this version cannot be had. n1: drained, so that nobody is sent there" in flat(run.output)
    mesh.wait_for(lambda: in_service(mesh) == {"n2"}, "nobody is sent to n1", 10)
    assert [entry["Node"]["Node"] for entry in get(mesh, "n3", "health/service/other?passing")] == ["n1"]
    assert version(mesh, "n1") == "served by n1 v1"


def test_the_last_healthy_instance_is_not_drained(mesh):
    # n1 is drained still; with n1 out of the run, n2 is all there is.
    run = roll(mesh, "v2", "--limit", "n2")
    assert run.code != 0
    said = flat(run.output)
    assert "web on n2 is not drained, as the other nodes cannot do without it: 1 healthy instance of web wanted, 0 there." in said
    assert "n1: in maintenance (vdloo-mesh: rolling update)" in said
    assert version(mesh, "n2") == "served by n2 v1"
    assert (in_service(mesh), drained(mesh)) == ({"n2"}, {"n1"})


def test_a_run_that_was_killed_is_picked_up_by_the_next_one(mesh, tmp_path):
    with mesh.requests("n3") as answers:
        # n1 is drained already, and comes first.
        with started(mesh, "slow", tmp_path / "log"):
            mesh.wait_for(lambda: mesh.node("n1").run("pgrep -f '[s]leep 601'").rc == 0, "the tasks are under way on n1", 90)
        assert (in_service(mesh), drained(mesh)) == ({"n2"}, {"n1"})
        run = roll(mesh, "v2")
    assert run.code == 0, run.output
    assert "n1 was drained by a run that did not get to its end" in run.output
    assert lost(answers) == []
    mesh.wait_for(lambda: both_serve(mesh, "v2"), "both serve the new version", 20)


@pytest.mark.slow
def test_what_was_updated_goes_back_by_itself_when_a_later_one_fails(mesh):
    with mesh.requests("n3") as answers:
        run = roll(mesh, "broken on n2", rolling_timeout=7, rolling_rollback_on_failure="true", **BACK)
    assert run.code != 0
    said = flat(run.output)
    assert "web on n2 could not be updated" in said and "n1, n2: taken back, and in service" in said
    assert lost(answers) == []
    mesh.wait_for(lambda: both_serve(mesh, "v1"), "both serve the version before", 20)


@pytest.mark.slow
def test_of_two_users_one_waits_for_the_other(mesh, tmp_path):
    def ann(state: str) -> None:
        options = f"name=rolling-web holder='rolling update of web by ann at laptop' state={state}"
        mesh.node("n3").check_output("cd /opt/mesh && ansible localhost -c local -m vdloo.mesh.mesh_lock -a %s", options)

    ann("held")
    log = tmp_path / "log"
    with started(mesh, "v2", log):
        mesh.wait_for(lambda: "Let nobody else update the service meanwhile" in log.read_text(), "the other one asks for the lock", 60)
        time.sleep(5)
        assert (in_service(mesh), drained(mesh)) == ({"n1", "n2"}, set())
        ann("free")
        mesh.wait_for(lambda: drained(mesh) == {"n1"}, "the other one begins", 20)


def test_two_at_a_time_do_not_leave_the_service_without_an_instance(mesh):
    before = {name: version(mesh, name) for name in ("n1", "n2")}
    # Both look at the same moment, and each finds the other one well.
    with mesh.requests("n3") as answers:
        run = roll(mesh, "v3", rolling_batch=2)
    assert run.code != 0
    assert "is not drained, as the other nodes cannot do without it" in flat(run.output)
    assert lost(answers) == []
    assert (in_service(mesh), drained(mesh)) == ({"n1", "n2"}, set())
    # One of them may have been let through.
    assert any(version(mesh, name) == before[name] for name in before)


def test_two_at_a_time_are_updated_where_an_outage_is_allowed(mesh):
    run = roll(mesh, "v4", rolling_batch=2, rolling_allow_outage="true")
    assert run.code == 0, run.output
    assert both_serve(mesh, "v4")
