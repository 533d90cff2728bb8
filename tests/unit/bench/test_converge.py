# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What script/bench converge makes of runs; the runs themselves are not for a unit test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "bench")]

import converge
import measure
import mitogen_venv

SITE = {"seconds": 3.0, "cpu_seconds": 2.0, "changed": {"n01": 0, "n02": 0, "n03": 0}}


class FakeNodes:
    """Three nodes that a run changes as it is told to."""

    def __init__(self) -> None:
        self.inventory = Path("hosts.yml")
        self.containers = dict.fromkeys(("n01", "n02", "n03"))
        self.started = {name: "1" for name in self.containers}
        self.files = {name: "as rendered" for name in self.containers}

    def run(self, name: str, *command: str) -> str:
        if command[0] == "sh":
            self.files[name] += " edited"
        return self.files[name]

    def processes(self) -> dict[str, str]:
        return dict(self.started)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> converge.Runs:
    """Runs of which `changes` holds what each of the next ones changes."""
    runs = converge.Runs(FakeNodes(), tmp_path, None)
    runs.changes = []

    def site() -> dict:
        changed = runs.changes.pop(0) if runs.changes else {}
        runs.nodes.files.update(dict.fromkeys(changed, "as rendered"))
        return {**SITE, "changed": {**SITE["changed"], **changed}, "calls": dict.fromkeys(SITE["changed"], 1)}

    monkeypatch.setattr(runs, "site", site)
    return runs


def test_a_no_op_that_changes_something_is_no_no_op(runs):
    runs.changes = [{"n02": 3}]
    with pytest.raises(RuntimeError, match=r"converged mesh changed something: n02 \(3\)"):
        runs.noop()


def test_a_no_op_that_restarts_a_daemon_is_no_no_op(runs, monkeypatch):
    site = runs.site

    def restarting() -> dict:
        runs.nodes.started["n03"] = "2"
        return site()

    monkeypatch.setattr(runs, "site", restarting)
    with pytest.raises(RuntimeError, match="restarted daemons on n03"):
        runs.noop()


def test_a_quiet_no_op_gives_its_figures(runs):
    assert runs.noop()["seconds"] == 3.0


def test_a_mesh_that_settles_says_how_many_runs_that_took(runs):
    assert runs.settle() == 1
    runs.changes = [{"n01": 1}]
    assert runs.settle() == 2


def test_a_mesh_that_never_settles_is_not_measured(runs):
    runs.changes = [{"n01": 1}] * 5
    with pytest.raises(RuntimeError, match=r"still changed something: n01 \(1\)"):
        runs.settle()


def test_a_drifted_node_is_mended_alone(runs):
    runs.changes = [{"n02": 2}]
    assert runs.one_drifted("n02")["node"] == "n02"


def test_a_drift_that_stays_is_told(runs):
    with pytest.raises(RuntimeError, match="did not mend /etc/h2o/mesh.conf on n02"):
        runs.one_drifted("n02")


def test_a_run_that_touches_other_nodes_than_the_drifted_one_is_told(runs):
    runs.changes = [{"n02": 2, "n03": 1}]
    with pytest.raises(RuntimeError, match=r"n02 alone had drifted, and the run changed n02 \(2\), n03 \(1\)"):
        runs.one_drifted("n02")


def one_round(ping: float, noop: float, calls: dict[str, int]) -> dict:
    def figures(seconds: float) -> dict:
        return {"seconds": seconds, "cpu_seconds": seconds}

    site = {**figures(noop), "calls": calls, "changed": {}}
    return {"ping": figures(ping), "noop": site, "one_drifted": {**site, "calls": {**calls, "n01": 4}, "node": "n01"}}


def result_of(size: int, rounds: list[dict]) -> dict:
    result = {"sizes": {}, "ratios": {}, "calls_per_node": {}, "seconds": {}}
    kinds = rounds[0]
    median = {kind: {"seconds": converge.middle(one[kind]["seconds"] for one in rounds)} for kind in kinds}
    converge.keep(result, size, {"cold": {"seconds": 30.0}, "rounds": rounds, "median": median})
    return result


def test_the_result_has_the_ratio_to_the_ping_and_the_most_calls_that_any_node_got():
    result = result_of(
        3, [one_round(1.0, 1.2, {"n01": 1, "n02": 1}), one_round(1.0, 1.4, {"n01": 1, "n02": 2}), one_round(1.0, 1.3, {"n01": 1})]
    )
    assert result["ratios"] == {"noop_vs_ping": {3: 1.3}, "one_drifted_vs_ping": {3: 1.3}}
    assert result["calls_per_node"] == {"noop": {3: 2}, "one_drifted": {3: 4}}
    assert result["seconds"] == {"cold": {3: 30.0}, "ping": {3: 1.0}, "noop": {3: 1.3}, "one_drifted": {3: 1.3}}


def test_the_table_has_a_line_for_each_size_and_no_figure_that_was_not_measured():
    lines = converge.report(result_of(3, [one_round(1.0, 1.2, {"n01": 1})])).splitlines()
    assert "mitogen" not in lines[0]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["3", "30.0", "1.0", "1.2", "1.2", "1.20", "1.20", "1", "4"]


def test_most_nodes_can_be_dialled_and_every_third_only_dials_out():
    nodes = converge.topology(7)["nodes"]
    assert list(nodes) == ["n01", "n02", "n03", "n04", "n05", "n06", "n07"]
    assert [name for name, options in nodes.items() if "listens" not in options] == ["n03", "n06"]


def test_a_failed_program_is_quoted_with_what_it_printed(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3 and said:\nwrong\nhow it went"):
        measure.run(["sh", "-c", "echo how it went; echo wrong >&2; exit 3"], dict(os.environ), tmp_path, tmp_path / "output")


def test_a_program_does_not_outlive_the_benchmark_that_a_signal_ends(tmp_path):
    script = (
        "import os, pathlib, signal, sys; import measure\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "measure.run(['sh', '-c', 'echo $$ >pid; exec sleep 60'], dict(os.environ), pathlib.Path('.'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "bench")}
    benchmark = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    benchmark.terminate()
    assert benchmark.wait(20) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_reason_of_a_refusal_is_its_first_error():
    said = "PLAY [all]\n\n[ERROR]: Mitogen does not know this Ansible\nTraceback\nKeyError: 'x'\n"
    assert mitogen_venv.reason(said) == "[ERROR]: Mitogen does not know this Ansible"
    assert mitogen_venv.reason("one\ntwo\n") == "two"
    assert mitogen_venv.reason("") == "it said nothing"
