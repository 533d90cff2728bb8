# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The callback plugin summary, in real runs of ansible-playbook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
BIN = Path(sys.executable).parent
# Stands in for the action plugin of that name, which needs a whole mesh.
MESH_PLAN = """\
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return {"changed": False, "lines": ["n1: h2o: a file differs"], "groups": []}
"""


class Play:
    def __init__(self, folder):
        self.folder = folder
        self.summary = folder / "summary.json"
        (folder / "action").mkdir()
        (folder / "action" / "mesh_plan.py").write_text(MESH_PLAN)
        (folder / "ansible.cfg").write_text("[defaults]\ngathering = explicit\n")

    def run(self, *tasks, hosts=("n1",), variables=None, summary=None, plays=None):
        """Run tasks on hosts that are this machine; return the exit code, what was printed and what the file then holds."""
        connection = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {"all": {"hosts": {name: (variables or {}).get(name, {}) for name in hosts}, "vars": connection}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        found = plays or [{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]
        (self.folder / "play.yml").write_text(yaml.safe_dump(found))
        done = subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", "hosts.yml", "play.yml"],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "LC_ALL": "C.UTF-8",
                "HOME": str(self.folder),
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
                "ANSIBLE_CALLBACKS_ENABLED": "vdloo.mesh.summary",
                "ANSIBLE_ACTION_PLUGINS": str(self.folder / "action"),
                **({"VDLOO_MESH_SUMMARY": str(summary or self.summary)} if summary != "" else {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        told = json.loads(self.summary.read_text()) if self.summary.exists() else None
        return done.returncode, done.stdout + done.stderr, told


@pytest.fixture
def play(tmp_path):
    return Play(tmp_path)


OK = {"ansible.builtin.ping": {}}
CHANGE = {"name": "Change", "ansible.builtin.command": {"cmd": "true"}}


def fail(text):
    return {"name": "Fail", "ansible.builtin.fail": {"msg": text}}


def test_it_counts_what_happened_on_each_host(play):
    code, output, told = play.run(OK, {**CHANGE, "when": "inventory_hostname == 'n2'"}, hosts=("n1", "n2"))
    assert code == 0, output
    assert told["hosts"] == {
        "n1": {"ok": 1, "changed": 0, "failed": 0, "unreachable": 0},
        "n2": {"ok": 2, "changed": 1, "failed": 0, "unreachable": 0},
    }
    assert (told["failures"], told["plan"]) == ([], [])
    assert len(told["started"]) == len(told["ended"]) == len("2026-01-02T03:04:05Z")
    assert told["started"] <= told["ended"]
    assert (play.summary.stat().st_mode & 0o777) == 0o600
    assert "WARNING" not in output


def test_a_failure_is_told_in_one_line_that_is_not_too_long(play):
    code, _output, told = play.run(fail("first\n\tsecond \x1b[31m" + "x" * 900))
    assert code == 2
    assert told["hosts"]["n1"]["failed"] == 1
    failure = told["failures"][0]
    assert (failure["host"], failure["task"]) == ("n1", "Fail")
    assert failure["msg"].startswith("first second [31mxxx")
    assert (len(failure["msg"]), failure["msg"][-3:]) == (500, "...")


def test_what_no_log_hides_is_not_in_the_file(play):
    hidden = {**fail("the key is s3cret"), "no_log": True}
    rounds = {"ansible.builtin.fail": {"msg": "also s3cret"}, "loop": [1, 2], "no_log": True}
    told = play.run({**hidden, "when": "inventory_hostname == 'n1'"}, rounds, hosts=("n1", "n2"))[2]
    assert [failure["host"] for failure in told["failures"]] == ["n1", "n2"]
    assert all("hidden" in failure["msg"] for failure in told["failures"])
    assert "s3cret" not in play.summary.read_text()


def test_of_a_loop_the_round_that_failed_is_told(play):
    told = play.run({"name": "Loop", "ansible.builtin.fail": {"msg": "round {{ item }}"}, "loop": [1, 2, 3], "when": "item > 1"})[2]
    assert told["failures"] == [{"host": "n1", "task": "Loop", "msg": "round 2"}]


def test_what_was_made_up_for_or_ignored_is_no_failure(play):
    code, output, told = play.run({**fail("never mind"), "ignore_errors": True}, {"block": [fail("saved")], "rescue": [OK]})
    assert code == 0, output
    assert told["failures"] == []


def test_of_a_rescue_that_fails_itself_the_last_word_is_told(play):
    told = play.run({"block": [fail("the cause")], "rescue": [fail("what it means")]})[2]
    assert [failure["msg"] for failure in told["failures"]] == ["what it means"]


def test_a_host_that_cannot_be_reached_is_told_with_the_reason(play):
    away = {"n2": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}}
    code, _output, told = play.run(OK, hosts=("n1", "n2"), variables=away)
    assert code == 4
    assert told["hosts"]["n2"]["unreachable"] == 1
    assert [failure["host"] for failure in told["failures"]] == ["n2"]
    assert "refused" in told["failures"][0]["msg"]


def test_the_plan_that_was_made_last_is_told(play):
    assert play.run({"mesh_plan": {}})[2]["plan"] == ["n1: h2o: a file differs"]


def test_without_a_file_nothing_is_written(play):
    code, output, told = play.run(OK, summary="")
    assert (code, told) == (0, None), output
    assert "WARNING" not in output


def test_a_file_that_cannot_be_written_is_a_warning(play):
    code, output, _told = play.run(OK, summary="/nowhere/summary.json")
    assert code == 0
    assert "the summary could not be written to /nowhere/summary.json: No such file or directory" in " ".join(output.split())
