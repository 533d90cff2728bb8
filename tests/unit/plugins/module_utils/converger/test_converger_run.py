# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run does where there is no leader, and the program with the real Ansible."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import yaml
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock, config, run, turn

ANSIBLE = Path(sys.executable).parent / "ansible-playbook"


@pytest.fixture
def run_once(monkeypatch):
    """A function that runs the program on a node and returns its record."""
    monkeypatch.setattr(run, "LEADER_S", 0.1)
    monkeypatch.setattr(run, "RETRY_S", 0.05)

    def work(node, stopped=False):
        event = threading.Event()
        if stopped:
            event.set()
        settings = config.load(str(node.config))[0]
        with turn.taken(settings.run("lock"), "hand") as descriptor:
            return run.Run(settings, "hand", event, str).work(descriptor)

    return work


def calls(node):
    return [call.split(" ", 2)[2] for call in node.calls]


def test_without_a_leader_a_node_repairs_what_needs_no_agreement(nodes, run_once):
    node = nodes("n1")
    record = run_once(node)
    assert calls(node) == ["--skip-tags consul vdloo.mesh.site"]
    assert (record["outcome"], record["why"], record["holder"]) == ("island", "Consul has no leader", {})


def test_after_long_without_a_leader_consul_itself_is_looked_after(nodes, run_once):
    node = nodes("n1", island_after_s=0)
    record = run_once(node)
    assert (record["outcome"], record["why"]) == ("island", "Consul has no leader")
    assert calls(node) == ["--skip-tags consul vdloo.mesh.site", "--tags consul vdloo.mesh.site"]


def test_that_is_done_once_in_this_time(nodes, run_once, monkeypatch):
    node = nodes("n1", island_after_s=60)
    now = [1000.0]

    def tick():
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(clock, "seconds", tick)
    for later, number in ((0, 1), (59, 2), (5, 4), (30, 5), (31, 7)):
        now[0] += later
        run_once(node)
        assert len(calls(node)) == number


def test_without_a_leader_a_failure_is_a_failure(nodes, run_once):
    node = nodes("n1")
    node.will_end(2, n1={"failed": 1})
    record = run_once(node)
    assert (record["outcome"], record["why"]) == ("failed", "Consul has no leader; ansible-playbook ended with 2")


def test_a_run_that_is_stopped_before_it_began_plays_nothing(nodes, run_once):
    node = nodes("n1")
    assert run_once(node, stopped=True)["outcome"] == "stopped"
    assert calls(node) == []


@pytest.fixture
def real(agent, nodes, tmp_path):
    """A function that runs the program with the real Ansible over this machine, and with these tasks."""

    def work(*tasks, start=False):
        play = tmp_path / "play.yml"
        play.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]))
        node = nodes("n1", agent.addr, ansible_playbook=str(ANSIBLE), playbook=str(play))
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        Path(node.settings["inventory"]).write_text(yaml.safe_dump({"all": {"hosts": {"n1": variables}}}))
        return node if start else (node, *node.run())

    return work


def test_the_real_ansible_tells_what_it_changed(real):
    node, code, output = real({"ansible.builtin.command": {"cmd": "true"}})
    assert code == 0, output
    assert (node.record["outcome"], node.record["changed"]) == ("changed", ["n1"])
    assert "TASK [" in output


def test_the_real_ansible_tells_what_failed(real):
    node, code, _output = real({"name": "Try", "ansible.builtin.command": {"cmd": "false"}})
    assert code == 1
    assert (node.record["outcome"], node.record["why"]) == ("failed", "ansible-playbook ended with 2")
    assert [(failure["host"], failure["task"]) for failure in node.record["failed"]] == [("n1", "Try")]


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_nothing_of_the_real_ansible_outlives_the_program(real, tmp_path, wait_for, how):
    note = tmp_path / "pid"
    node = real({"ansible.builtin.shell": {"cmd": f"echo $$ >{note}; exec sleep 600"}}, start=True)
    process = node.start()
    pid = int(wait_for(lambda: note.exists() and note.read_text(), 60))
    getattr(process, how)()
    process.communicate(timeout=30)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 15)
    # And with it the turn of the node is free.
    with turn.taken(config.load(str(node.config))[0].run("lock"), "hand"):
        pass
