# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The whole program against real Consul agents."""

from __future__ import annotations

import json
import os
import signal
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock, lock

ROOT = Path(__file__).resolve().parents[5]


def held_by(agent):
    """The session that has the lock, empty when nobody has it."""
    return lock.look(agent.client)[1]


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return int(mask, 16) >> (number - 1) & 1


def test_a_run_with_the_lock_runs_the_playbook_and_gives_the_lock_back(agent, nodes, wait_for):
    node = nodes("n1", agent.addr)
    node.will_go_on()
    process = node.start("--reason", "timer")
    wait_for(node.is_playing)
    holder, session = lock.look(agent.client)
    assert session
    assert (holder["node"], holder["reason"], holder["pid"]) == ("n1", "timer", process.pid)
    node.will_end(n1={}, n2={})
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 0, output
    assert "n1: converged" in output
    assert node.calls == [f"-i {node.settings['inventory']} vdloo.mesh.site"]
    assert held_by(agent) == ""
    assert agent.client.get("/v1/session/list").value == []
    assert node.record["outcome"] == "converged"
    assert node.record["failed"] == node.record["changed"] == node.record["unreachable"] == []
    assert json.loads(agent.client.kv("vdloo-mesh/v1/runs/")["vdloo-mesh/v1/runs/n1"]) == node.record


def test_a_timer_stands_down_where_another_has_just_converged_the_mesh(agent, nodes):
    first, second = nodes("n1", agent.addr), nodes("n2", agent.addr)
    first.will_end(n1={})
    assert first.run("--reason", "timer")[0] == 0
    code, output = second.run("--reason", "timer")
    assert (code, second.calls) == (0, []), output
    assert "n1 has converged the mesh" in output
    assert (second.record["outcome"], second.record["holder"]["node"]) == ("stood down", "n1")
    second.will_end(n1={})
    assert second.run("--reason", "hand")[0] == 0
    assert len(second.calls) == 1


@pytest.mark.parametrize(
    ("outcome", "seconds"), [("failed", 0), ("converged", 10**5), ("converged", -(10**5))], ids=["failed", "long ago", "by another clock"]
)
def test_a_run_that_failed_or_is_old_is_none_to_stand_down_for(agent, nodes, outcome, seconds):
    ended = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    word = {"node": "n1", "pid": 1, "outcome": outcome, "ended": ended.strftime("%Y-%m-%dT%H:%M:%SZ")}
    agent.client.put(lock.KEY, json.dumps(word).encode())
    node = nodes("n2", agent.addr)
    node.will_end(n1={})
    assert node.run("--reason", "timer")[0] == 0
    assert len(node.calls) == 1


def test_the_playbook_gets_the_collection_the_program_is_of_and_no_stray_settings(agent, nodes, monkeypatch):
    monkeypatch.setenv("ANSIBLE_CHECK_MODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    node = nodes("n1", agent.addr)
    node.run()
    given = node.environment
    assert given["ANSIBLE_CONFIG"] == node.settings["ansible_cfg"]
    assert given["ANSIBLE_COLLECTIONS_PATH"] == str(ROOT / "collections")
    assert given["ANSIBLE_CALLBACKS_ENABLED"] == "vdloo.mesh.summary"
    assert given["PATH"].startswith("/usr/bin:/bin:")
    assert "/usr/local/sbin" in given["PATH"].split(":")
    assert given["HOME"]
    assert not {"ANSIBLE_CHECK_MODE", "PYTHONPATH"} & set(given)


@pytest.mark.parametrize(
    ("code", "hosts", "outcome", "exit_code"),
    [
        (0, {"n1": {"changed": 2}, "n2": {}}, "changed", 0),
        (2, {"n1": {"failed": 1}, "n2": {"changed": 1}}, "failed", 1),
        (4, {"n1": {}, "n2": {"unreachable": 1}}, "failed", 1),
    ],
)
def test_the_outcome_is_what_the_playbook_found(agent, nodes, code, hosts, outcome, exit_code):
    node = nodes("n1", agent.addr)
    node.will_end(code, **hosts)
    assert node.run()[0] == exit_code
    record = node.record
    assert record["outcome"] == outcome
    assert record["changed"] == [name for name, count in hosts.items() if count.get("changed")]
    assert record["unreachable"] == [name for name, count in hosts.items() if count.get("unreachable")]
    assert [failure["host"] for failure in record["failed"]] == [name for name, count in hosts.items() if count.get("failed")]
    assert held_by(agent) == ""


def test_a_playbook_that_tells_nothing_is_no_success(agent, nodes):
    node = nodes("n1", agent.addr)
    (node.folder / "ansible-playbook.summary").unlink()
    assert node.run()[0] == 1
    assert "vdloo.mesh.summary has told nothing" in node.record["why"]


def test_a_summary_of_an_earlier_run_is_not_taken_for_one_of_this(agent, nodes):
    node = nodes("n1", agent.addr)
    node.run()
    (node.folder / "ansible-playbook.summary").unlink()
    assert node.run()[0] == 1


def test_of_two_that_begin_at_once_one_works_and_one_stands_down(agent, nodes, wait_for):
    pair = [nodes(name, agent.addr) for name in ("n1", "n2")]
    for node in pair:
        node.will_go_on()
    processes = [node.start() for node in pair]
    wait_for(lambda: any(process.poll() is not None for process in processes), 40)
    wait_for(lambda: any(node.is_playing() for node in pair))
    assert sorted(len(node.calls) for node in pair) == [0, 1]
    worker, idler = sorted(pair, key=lambda node: -len(node.calls))
    working, idling = worker.processes[0], idler.processes[0]
    worker.will_end(n1={}, n2={})
    output = idling.communicate(timeout=30)[0]
    assert (idling.returncode, idler.record["outcome"]) == (0, "stood down"), output
    assert idler.record["holder"]["node"] == worker.name
    assert f"{worker.name} has the lock since {idler.record['holder']['since']}" in output
    working.communicate(timeout=30)
    assert (working.returncode, worker.record["outcome"]) == (0, "converged")
    assert idler.calls == []


def test_a_second_run_on_the_same_node_says_who_is_at_it(agent, nodes, wait_for):
    node = nodes("n1", agent.addr)
    node.will_go_on()
    first = node.start("--reason", "event")
    wait_for(node.is_playing)
    code, output = node.run("--reason", "timer")
    assert code == 0
    assert f"this node is at it already: process {first.pid}, begun by event at" in output
    assert len(node.calls) == 1


def test_a_holder_that_is_killed_is_followed_by_another_node(agent, nodes, wait_for):
    dying, heir = (nodes(name, agent.addr, hurried=True) for name in ("n1", "n2"))
    dying.will_go_on()
    process = dying.start()
    wait_for(dying.is_playing)
    process.kill()
    process.wait()
    killed = clock.seconds()
    wait_for(lambda: not dying.is_playing(), 5)
    while heir.run()[0] == 0 and heir.record["outcome"] == "stood down":
        assert clock.seconds() - killed < 2 * 2 + 1 + 5
    assert heir.record["outcome"] == "converged"


def test_a_node_whose_run_was_killed_takes_its_own_lock_back_at_once(agent, nodes, wait_for):
    node = nodes("n1", agent.addr)
    node.will_go_on()
    process = node.start()
    wait_for(node.is_playing)
    before = held_by(agent)
    process.kill()
    process.wait()
    node.will_end(n1={})
    begun = clock.seconds()
    wait_for(lambda: "n1: converged" in node.run()[1])
    assert clock.seconds() - begun < 8
    assert before
    assert agent.client.get("/v1/session/list").value == []


def test_no_run_begins_on_a_node_while_anything_of_a_killed_one_is_left(agent, nodes, wait_for):
    node = nodes("n1", agent.addr)
    node.will_go_on(deaf=True)
    process = node.start()
    wait_for(node.is_playing)
    process.kill()
    process.wait()
    code, output = node.run()
    assert (code, len(node.calls)) == (0, 1)
    assert f"this node is at it already: process {process.pid}" in output
    node.will_end(n1={})
    wait_for(lambda: "n1: converged" in node.run()[1])


def test_sigterm_ends_the_playbook_and_releases_the_lock(agent, nodes, wait_for):
    node = nodes("n1", agent.addr)
    node.will_go_on()
    process = node.start()
    wait_for(node.is_playing)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 1
    assert node.record["outcome"] == "stopped"
    assert not node.is_playing()
    assert held_by(agent) == ""
    assert agent.client.get("/v1/session/list").value == []


def test_a_playbook_that_takes_too_long_is_ended(agent, nodes):
    node = nodes("n1", agent.addr, timeout_s=1)
    node.will_go_on()
    assert node.run()[0] == 1
    assert node.record["outcome"] == "timed out"
    assert not node.is_playing()
    assert held_by(agent) == ""


def test_a_playbook_is_ended_when_the_quorum_is_lost(agents, nodes, wait_for):
    pair = [agents(name, bootstrap_expect=2) for name in ("c1", "c2")]
    for agent in pair:
        agent.start()
        wait_for(agent.alive)
    pair[0].client.put(f"/v1/agent/join/{pair[1].address}")
    wait_for(pair[0].leader, 30)
    node = nodes("n1", pair[0].addr, hurried=True)
    node.will_go_on()
    process = node.start()
    wait_for(node.is_playing)
    pair[1].stop()
    lost = clock.seconds()
    wait_for(lambda: not node.is_playing(), 40)
    assert clock.seconds() - lost < 2 + 5
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert node.record["outcome"] == "lost the lock"
    assert "did not renew its session" in node.record["why"]


def test_a_run_that_restarts_the_agent_of_its_own_node_keeps_the_lock(agents, nodes, wait_for):
    leader, own = agents("c1", bootstrap_expect=1).start(), agents("c2", server=False)
    wait_for(leader.leader, 30)
    own.start()
    wait_for(own.alive)
    own.client.put(f"/v1/agent/join/{leader.address}")
    wait_for(own.leader)
    node = nodes("n1", own.addr)
    node.will_go_on()
    process = node.start()
    wait_for(node.is_playing)
    session = held_by(leader)
    own.stop()
    # Until the others have noticed.
    wait_for(lambda: leader.alive() == {"c1"}, 30)
    own.start()
    wait_for(own.alive)
    own.client.put(f"/v1/agent/join/{leader.address}")
    wait_for(lambda: leader.alive() == {"c1", "c2"}, 30)
    assert held_by(leader) == session
    node.will_end(n1={})
    output = process.communicate(timeout=30)[0]
    assert node.record["outcome"] == "converged", output


def test_a_playbook_is_ended_when_its_lock_is_taken_away(agent, nodes, wait_for):
    node = nodes("n1", agent.addr)
    node.will_go_on()
    process = node.start()
    wait_for(node.is_playing)
    agent.client.put("/v1/session/destroy/" + held_by(agent))
    process.communicate(timeout=20)
    assert node.record["outcome"] == "lost the lock"
    assert not node.is_playing()


def test_a_lock_that_one_session_never_gives_back_is_done_without_in_the_end(agent, nodes):
    session = agent.client.put("/v1/session/create", b'{"TTL": "600s"}')["ID"]
    assert agent.client.put(lock.KEY, b'{"node": "n9", "since": "then"}', {"acquire": session})
    patient, other = nodes("n1", agent.addr), nodes("n2", agent.addr, island_after_s=0)
    assert patient.run()[0] == 0
    assert (patient.record["outcome"], patient.record["why"]) == ("stood down", "n9 has the lock since then")
    assert other.run()[0] == 0
    assert other.record["outcome"] == "island"
    assert other.calls == [f"-i {other.settings['inventory']} --skip-tags consul vdloo.mesh.site"]
    assert held_by(agent) == session


def test_what_is_no_news_is_not_written_again(agent, nodes):
    node = nodes("n1", agent.addr)
    key = "/v1/kv/vdloo-mesh/v1/runs/n1"

    def written():
        return agent.client.get(key).value[0]["ModifyIndex"]

    node.run()
    first = written()
    node.run("--reason", "timer")
    assert written() == first
    session = agent.client.put("/v1/session/create", b"{}")["ID"]
    agent.client.put(lock.KEY, b"{}", {"acquire": session})
    node.run()
    assert node.record["outcome"] == "stood down"
    assert written() == first
    agent.client.put(lock.KEY, b"{}", {"release": session})
    node.will_end(0, n2={"changed": 1})
    node.run()
    assert written() > first


def test_the_status_is_for_everybody_to_read_and_is_shown(agent, nodes):
    node = nodes("n1", agent.addr)
    assert node.run("--status") == (0, "vdloo-mesh-converge has not run yet on this node\n")
    node.will_end(2, n1={"failed": 1}, n2={"changed": 1})
    node.run("--reason", "event")
    assert stat.S_IMODE(os.stat(node.folder / "state" / "last-run.json").st_mode) == 0o644
    code, shown = node.run("--status")
    assert code == 0
    assert shown.startswith("n1: failed, from ")
    assert shown.endswith("begun by event\n  ansible-playbook ended with 2\n  changed: n2\n  failed: n1: T: no\n")
    assert len(node.calls) == 1


def test_a_damaged_status_is_named(nodes):
    node = nodes("n1")
    (node.folder / "state" / "last-run.json").write_text("{")
    code, output = node.run("--status")
    assert code == 2
    assert "last-run.json is damaged" in output


def test_bad_settings_are_refused_before_anything_is_done(nodes):
    node = nodes("n1", lock_ttl_s=5)
    code, output = node.run()
    assert code == 2
    assert output.startswith(f"{node.config}: lock_ttl_s is 5: write a whole number of seconds from 10 to 86400")
    assert list((node.folder / "run").iterdir()) == list((node.folder / "state").iterdir()) == []


def test_a_node_without_ansible_says_so(agent, nodes):
    node = nodes("n1", agent.addr, ansible_playbook="/nowhere/ansible-playbook")
    code, output = node.run()
    assert code == 2
    assert "/nowhere/ansible-playbook is not an executable program: run vdloo.mesh.site over this node from another one" in output
    assert node.record["outcome"] == "failed"
    assert "/nowhere/ansible-playbook" in node.record["why"]


def test_a_setting_of_a_newer_build_is_told_and_does_no_harm(agent, nodes):
    node = nodes("n1", agent.addr, colour="red")
    code, output = node.run()
    assert code == 0
    assert "colour is not known to this build" in output


@pytest.mark.parametrize("arguments", [("--reason", "whim"), ("--jitter", "-1"), ("--jitter", "nan"), ("more",)])
def test_a_wrong_call_is_refused(nodes, arguments):
    assert nodes("n1").run(*arguments)[0] == 2


def test_a_stop_while_it_waits_starts_nothing(nodes, wait_for):
    node = nodes("n1")
    process = node.start("--jitter", "80000")
    wait_for(lambda: catches(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 1
    assert node.calls == []
