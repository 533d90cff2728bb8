# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The counter of remote calls, in real runs of ansible-playbook over a program that stands in for ssh and notes each of its starts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CALLBACKS = ROOT / "tests" / "callbacks"
BIN = Path(sys.executable).parent

# Runs here what it would run there, but for the question whether it knows ControlPersist.
SSH = """\
#!/bin/sh
for command; do :; done
[ "$command" != ControlPersist ] || exit 0
echo start >>"$SSH_STARTS"
exec /bin/sh -c "$command"
"""


class Runner:
    def __init__(self, folder: Path, pipelining: bool) -> None:
        self.folder, self.pipelining = folder, pipelining
        (folder / "ssh").write_text(SSH)
        (folder / "ssh").chmod(0o755)
        (folder / "ansible.cfg").write_text("[defaults]\ncallback_result_format = yaml\n")
        variables = {
            "ansible_ssh_executable": str(folder / "ssh"),
            "ansible_ssh_transfer_method": "piped",
            "ansible_pipelining": pipelining,
            "ansible_python_interpreter": sys.executable,
            "ansible_remote_tmp": str(folder / "remote"),
        }
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"n1": {}, "n2": {}}, "vars": variables}}))

    def run(self, tasks: list[dict], **environment: str) -> dict:
        """Run tasks on n1 and n2; return what was counted. `self.starts` is how often the stand-in was started."""
        starts, counted = self.folder / "starts", self.folder / "calls.json"
        starts.write_text("")
        (self.folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "n1:n2", "gather_facts": False, "tasks": tasks}]))
        finished = subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", "hosts.yml", "play.yml"],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "LC_ALL": "C.UTF-8",
                "HOME": str(self.folder),
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
                "SSH_STARTS": str(starts),
                "VDLOO_MESH_CALLS": str(counted),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "WARNING" not in finished.stderr, finished.stderr
        self.starts = len(starts.read_text().splitlines())
        return json.loads(counted.read_text())["hosts"] if counted.exists() else {}

    def calls(self, *tasks: dict, **environment: str) -> dict[str, int]:
        hosts = self.run(list(tasks), **environment)
        # Whatever a call is, no start of ssh may be missing from the trips.
        assert sum(host["trips"] for host in hosts.values()) == self.starts
        return {name: host["calls"] for name, host in hosts.items()}


@pytest.fixture
def runner(tmp_path) -> Runner:
    return Runner(tmp_path, pipelining=True)


@pytest.fixture(params=[True, False], ids=["pipelining", "no pipelining"])
def either(request, tmp_path) -> Runner:
    return Runner(tmp_path, request.param)


def test_a_module_is_one_call_a_host(either):
    assert either.calls({"ansible.builtin.ping": {}}) == {"n1": 1, "n2": 1}
    assert (either.starts == 2) is either.pipelining


def test_what_stays_on_the_controller_is_no_call(runner):
    tasks = (
        {"ansible.builtin.debug": {"msg": "hello"}},
        {"ansible.builtin.set_fact": {"seen": True}},
        {"ansible.builtin.assert": {"that": "seen"}},
        {"ansible.builtin.ping": {}, "when": "not seen"},
        {"ansible.builtin.command": {"cmd": "true"}, "delegate_to": "localhost"},
        {"ansible.builtin.group_by": {"key": "seen"}},
        {"ansible.builtin.meta": "flush_handlers"},
    )
    assert runner.calls(*tasks) == {"n1": 0, "n2": 0}


def test_every_call_of_an_action_counts(either):
    copy = {
        "name": "Copy",
        "ansible.builtin.copy": {"content": "a", "dest": str(either.folder / "{{ inventory_hostname }}"), "mode": "0600"},
    }
    assert either.calls(copy) == {"n1": 3, "n2": 3}, "stat, transfer and copy"
    assert either.calls(copy) == {"n1": 2, "n2": 2}, "stat, and file for the mode: nothing to transfer"


def test_a_transfer_without_a_module_is_a_call(either):
    (either.folder / "there").write_text("x")
    fetch = {"ansible.builtin.fetch": {"src": str(either.folder / "there"), "dest": str(either.folder / "fetched")}}
    # Its first is the module that looks at the file, its second brings it.
    assert either.calls(fetch)["n1"] == 2


def test_each_round_of_a_loop_is_a_call(runner):
    assert runner.calls({"ansible.builtin.ping": {}, "loop": [1, 2, 3], "when": "item != 2"}) == {"n1": 2, "n2": 2}


def test_a_failed_call_is_a_call(runner):
    assert runner.calls({"ansible.builtin.command": {"cmd": "false"}, "ignore_errors": True}) == {"n1": 1, "n2": 1}


def test_a_raw_command_is_a_call(either):
    assert either.calls({"ansible.builtin.raw": "true"}) == {"n1": 1, "n2": 1}


def test_a_host_that_ran_no_task_is_not_named(runner):
    assert runner.calls({"ansible.builtin.ping": {}, "run_once": True}) == {"n1": 1}


def test_a_delegated_call_counts_for_the_host_that_it_went_to(runner):
    task = {"ansible.builtin.ping": {}, "delegate_to": "{{ target }}", "vars": {"target": "n2"}}
    assert runner.calls(task) == {"n1": 0, "n2": 2}


def test_calls_are_told_by_task(runner):
    tasks = [{"name": "Ping", "ansible.builtin.ping": {}}, {"name": "Ask", "ansible.builtin.command": {"cmd": "true"}, "loop": [1, 2]}]
    assert runner.run(tasks)["n1"]["tasks"] == {"Ask": 2, "Ping": 1}


def test_a_search_for_python_is_part_of_the_call_that_needs_it(runner):
    variables = {"ansible_python_interpreter": "auto_silent", "ansible_interpreter_python_fallback": [sys.executable]}
    search = {"ansible.builtin.ping": {}, "vars": variables}
    assert runner.calls(search) == {"n1": 1, "n2": 1}
    assert sum(host["trips"] for host in runner.run([search]).values()) > sum(
        host["trips"] for host in runner.run([{"ansible.builtin.ping": {}}]).values()
    )


def test_nothing_is_counted_unless_a_file_is_named(runner):
    assert runner.run([{"ansible.builtin.ping": {}}], VDLOO_MESH_CALLS="") == {}
    assert list(runner.folder.glob("calls.json*")) == []


def test_the_figures_of_an_earlier_run_do_not_stay(runner):
    assert runner.calls({"ansible.builtin.ping": {}}) == {"n1": 1, "n2": 1}
    assert runner.calls({"ansible.builtin.debug": {}}) == {"n1": 0, "n2": 0}


def test_the_lines_of_all_workers_are_summed_up_by_host():
    spec = importlib.util.spec_from_file_location("calls", CALLBACKS / "calls.py")
    calls = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(calls)
    lines = [
        json.dumps({"host": "n1", "task": "T", "calls": 1, "trips": 4}),
        json.dumps({"host": "n1", "task": "T", "calls": 0, "trips": 1}),
    ]
    assert calls.totals(lines, ["n2"])["hosts"] == {
        "n1": {"calls": 1, "trips": 5, "tasks": {"T": 1}},
        "n2": {"calls": 0, "trips": 0, "tasks": {}},
    }
