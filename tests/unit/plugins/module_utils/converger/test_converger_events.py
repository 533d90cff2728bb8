# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that begins when somebody joins or leaves, on real Consul agents and with the program as real processes."""

from __future__ import annotations

import json
import subprocess
import threading
import time

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import config, events, lock, membership, run, turn

EVENT = ("--reason", "event")


def keep(agent, **members):
    """Let the last run have left these members."""
    record = {"members": members, "below_minimum": False, "turning": "", "by": "n9", "at": "2026-01-02T03:04:05Z"}
    agent.client.put(membership.KEY, json.dumps(record).encode())


def kept(agent):
    return membership.load(agent.client)[0]


def has_run(node):
    return (node.folder / "state" / "last-run.json").exists()


# ---------------------------------------------------------------- when there is a run


def test_word_of_nothing_makes_no_run_and_is_no_run_to_tell_of(agent, nodes):
    keep(agent, c1="alive")
    node = nodes("n1", agent.addr)
    node.event()
    code, output = node.run(*EVENT)
    assert (code, node.calls, has_run(node)) == (0, [], False)
    assert output == "the mesh has the members that the last run has left, 1 of them alive: there is nothing to do\n"
    assert kept(agent)["by"] == "n9"
    assert not node.has_word
    with pytest.raises(client.NotFound):
        agent.client.get(lock.KEY)


def test_a_membership_that_nobody_has_left_behind_makes_a_run_that_does(agent, nodes):
    keep(agent, c1="alive", c2="alive")
    node = nodes("n1", agent.addr)
    code, output = node.run(*EVENT)
    assert (code, len(node.calls)) == (0, 1), output
    assert (node.record["outcome"], node.record["reason"]) == ("converged", "event")
    assert (kept(agent)["members"], kept(agent)["by"]) == ({"c1": "alive", "c2": "failed"}, "n1")
    assert node.run(*EVENT)[1].endswith("there is nothing to do\n")
    assert len(node.calls) == 1


def test_who_finds_the_lock_taken_leaves_the_record_of_the_run_before(agent, nodes):
    keep(agent, c1="alive", c2="alive")
    node = nodes("n1", agent.addr)
    node.run(*EVENT)
    before = node.record
    session = agent.client.put("/v1/session/create", b"{}")["ID"]
    assert agent.client.put(lock.KEY, b'{"node": "n9", "since": "then"}', {"acquire": session})
    settings = config.load(str(node.config))[0]
    with turn.taken(settings.run("lock"), "event") as descriptor:
        second = run.Run(settings, "event", threading.Event(), str).work(descriptor)
    assert second["outcome"] == "stood down"
    assert node.record == before


def test_ten_words_make_one_run(agent, nodes, wait_for):
    keep(agent)
    node = nodes("n1", agent.addr, event_quiet_s=1)
    process = node.start(*EVENT)
    for _number in range(10):
        node.event()
        time.sleep(0.25)
        assert node.calls == [], "it is not quiet yet"
    output = process.communicate(timeout=30)[0]
    assert (len(node.calls), node.has_word) == (1, False), output


def test_quiet_is_not_waited_for_for_ever(agent, nodes, wait_for):
    keep(agent)
    node = nodes("n1", agent.addr, event_quiet_s=0.5)
    process = node.start(*EVENT)

    def go_on():
        node.event()
        return node.calls

    wait_for(go_on, 15)
    process.communicate(timeout=30)


def test_what_changes_during_a_run_is_for_the_next_look(agent, nodes, wait_for):
    keep(agent)
    node = nodes("n1", agent.addr)
    node.will_go_on()
    process = node.start(*EVENT)
    wait_for(node.is_playing)
    node.event()
    node.will_end(n1={})
    process.communicate(timeout=30)
    assert node.has_word, "what begins the program begins it once more for that"


def test_word_to_several_nodes_makes_one_run(agent, nodes, wait_for):
    keep(agent)
    three = [nodes(f"n{number}", agent.addr) for number in (1, 2, 3)]
    for node in three:
        node.will_go_on()
    processes = [node.start(*EVENT) for node in three]
    wait_for(lambda: any(node.is_playing() for node in three), 30)
    # The others wait for the one that has the lock.
    time.sleep(3)
    assert sum(len(node.calls) for node in three) == 1
    assert all(process.poll() is None for process in processes)
    for node in three:
        node.will_end(n1={})
    outputs = [process.communicate(timeout=40)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sum(len(node.calls) for node in three) == 1, outputs
    assert sum("there is nothing to do" in output for output in outputs) == 2, outputs
    assert sum(has_run(node) for node in three) == 1


def test_a_run_that_fails_is_not_made_again_by_every_node(agent, nodes):
    keep(agent)
    one, other = nodes("n1", agent.addr), nodes("n2", agent.addr)
    one.will_end(2, n3={"failed": 1})
    assert one.run(*EVENT)[0] == 1
    assert other.run(*EVENT)[0] == 0
    assert (len(one.calls), len(other.calls)) == (1, 0)


def test_a_run_that_is_killed_is_made_by_another_node(agent, nodes, wait_for):
    keep(agent)
    dying, heir = nodes("n1", agent.addr), nodes("n2", agent.addr)
    dying.will_go_on()
    process = dying.start(*EVENT)
    wait_for(dying.is_playing)
    waiting = heir.start(*EVENT)
    wait_for(lambda: waiting.poll() is None)
    process.kill()
    process.wait()
    # As Consul does once the session is over, but without a rest.
    agent.client.put(lock.KEY, b'{"node": "n1"}', {"release": lock.look(agent.client)[1]})
    output = waiting.communicate(timeout=60)[0]
    assert len(heir.calls) == 1, output
    assert kept(agent)["by"] == "n2"


def test_a_run_of_the_timer_on_the_same_node_is_waited_for(agent, nodes, wait_for):
    keep(agent)
    node = nodes("n1", agent.addr)
    node.will_go_on()
    timer = node.start("--reason", "timer")
    wait_for(node.is_playing)
    event = node.start(*EVENT)
    time.sleep(2)
    assert event.poll() is None
    node.will_end(n1={})
    timer.communicate(timeout=30)
    output = event.communicate(timeout=30)[0]
    assert (event.returncode, len(node.calls)) == (0, 1), output
    assert "there is nothing to do" in output


def test_runs_of_the_timer_leave_their_word_and_an_idle_mesh_writes_nothing(agent, nodes):
    node = nodes("n1", agent.addr, period_s=1)
    node.run("--reason", "timer")
    assert kept(agent)["members"] == {"c1": "alive"}
    index = membership.load(agent.client)[1]
    time.sleep(1)
    node.run("--reason", "timer")
    assert len(node.calls) == 2
    assert membership.load(agent.client)[1] == index


def test_without_a_leader_the_timer_looks_after_it(nodes, monkeypatch):
    monkeypatch.setattr(run, "LEADER_S", 0.2)
    monkeypatch.setattr(run, "RETRY_S", 0.05)
    node, said = nodes("n1"), []
    assert events.Watcher(config.load(str(node.config))[0], threading.Event(), said.append).work() == {}
    assert (node.calls, has_run(node)) == ([], False)
    assert "who is in the mesh cannot be told" in said[0]


def test_a_stop_while_it_waits_for_quiet_ends_it(agent, nodes, wait_for):
    node = nodes("n1", agent.addr, event_quiet_s=600)
    node.event()
    process = node.start(*EVENT)
    wait_for(lambda: not node.has_word)
    process.terminate()
    process.communicate(timeout=5)
    assert (process.returncode, node.calls) == (1, [])


# ---------------------------------------------------------------- the watches of the agent


def test_ten_changes_of_the_mesh_make_one_run_and_that_makes_no_other(agents, nodes, tmp_path, wait_for):
    node_folder = tmp_path / "node-n1" / "events"
    watches = [{**watch, "args": ["touch", str(node_folder / "changed")]} for watch in membership.WATCHES]
    leader = agents("c1", bootstrap_expect=1, watches=watches).start()
    wait_for(leader.leader, 30)
    wait_for(leader.is_registered, 30)
    node = nodes("n1", leader.addr, event_quiet_s=1)
    node.run()
    assert kept(leader)["members"] == {"c1": "alive"}
    other = agents("c2", server=False).start()
    wait_for(other.alive)
    process = node.start(*EVENT)
    other.client.put(f"/v1/agent/join/{leader.address}")
    for number in range(9):
        entry = {"Node": f"x{number}", "Address": "127.0.0.9", "Check": {"CheckID": "serfHealth", "Name": "s", "Status": "critical"}}
        leader.client.put("/v1/catalog/register", json.dumps(entry).encode())
        time.sleep(0.2)
    assert len(node.calls) == 1
    output = process.communicate(timeout=40)[0]
    assert len(node.calls) == 2, output
    assert kept(leader)["members"] == {"c1": "alive", "c2": "alive"}
    other.client.put("/v1/agent/leave")
    wait_for(lambda: leader.alive() == {"c1"}, 30)
    wait_for(lambda: node.has_word, 30)
    output = node.run(*EVENT)[1]
    assert len(node.calls) == 3, output
    assert kept(leader)["members"] == {"c1": "alive"}


def test_consul_finds_the_watches_valid_and_takes_them_up_with_a_reload(agents, tmp_path, wait_for):
    watches = tmp_path / "watches.json"
    made = agents("c1", bootstrap_expect=1)
    made.start()
    wait_for(made.leader, 30)
    config = made.folder / "agent.json"
    asked = {"watches": [{**watch, "args": ["touch", str(tmp_path / "changed")]} for watch in membership.WATCHES]}
    config.write_text(json.dumps({**json.loads(config.read_text()), **asked}))
    watches.write_text(json.dumps({"watches": membership.WATCHES, "data_dir": str(tmp_path), "bind_addr": "127.0.0.1"}))
    done = subprocess.run([made.binary, "validate", str(watches)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pid = made.process.pid
    made.client.put("/v1/agent/reload")
    wait_for((tmp_path / "changed").exists)
    assert made.process.poll() is None and made.process.pid == pid


# ---------------------------------------------------------------- hooks of a run


def tell(node, *names, **beside):
    for event in names or membership.EVENTS:
        node.hook(event, "tell", f'#!/bin/sh\necho "$VDLOO_MESH_EVENT $VDLOO_MESH_ABOUT" >>{node.folder}/told\n', **beside)


def told(node):
    path = node.folder / "told"
    return [line.strip() for line in path.read_text().splitlines()] if path.exists() else []


def test_the_node_that_has_the_lock_runs_the_hooks_while_it_has_it(agent, nodes):
    keep(agent, c1="failed", c2="alive")
    node = nodes("n1", agent.addr)
    tell(node)
    node.hook("cluster_change", "lock", f"#!/bin/sh\n{curl(agent)} >{node.folder}/lock\n")
    node.run(*EVENT)
    assert told(node) == ["node_joined c1", "node_left c2", "cluster_change", "after_mesh"]
    assert "Session" in (node.folder / "lock").read_text()
    assert lock.look(agent.client)[1] == ""
    assert [(entry["event"], entry["name"], entry["node"], entry["outcome"]) for entry in node.record["hooks"]] == [
        ("node_joined", "tell", "c1", "ok"),
        ("node_left", "tell", "c2", "ok"),
        ("cluster_change", "lock", "", "ok"),
        ("cluster_change", "tell", "", "ok"),
        ("after_mesh", "tell", "", "ok"),
    ]


def curl(agent):
    return f"python3 -c 'import urllib.request as r; print(r.urlopen(\"{agent.addr}{lock.KEY}\").read())'"


def test_the_first_run_of_all_tells_of_nobody(agent, nodes):
    node = nodes("n1", agent.addr)
    tell(node)
    node.run("--reason", "timer")
    assert told(node) == []
    assert kept(agent)["members"] == {"c1": "alive"}


@pytest.mark.parametrize(
    ("reason", "changed", "expected"),
    [("timer", 0, []), ("timer", 1, ["after_mesh"]), ("hand", 0, ["after_mesh"])],
)
def test_after_a_run_that_changed_something_or_was_asked_for_there_is_an_event(agent, nodes, reason, changed, expected):
    keep(agent, c1="alive")
    node = nodes("n1", agent.addr)
    tell(node)
    node.will_end(0, n1={"changed": changed})
    node.run("--reason", reason)
    assert told(node) == expected


def test_after_a_run_that_failed_who_left_is_told_all_the_same(agent, nodes):
    keep(agent, c1="alive", c2="alive")
    node = nodes("n1", agent.addr)
    tell(node)
    node.will_end(2, n1={"failed": 1})
    assert node.run(*EVENT)[0] == 1
    assert told(node) == ["node_left c2", "cluster_change"]


def test_a_hook_that_fails_is_no_failed_run_and_shows_in_the_status(agent, nodes):
    keep(agent, c1="alive", c2="alive")
    node = nodes("n1", agent.addr)
    node.hook("node_left", "bad", "#!/bin/sh\nexit 7\n")
    code, output = node.run(*EVENT)
    assert (code, node.record["outcome"]) == (0, "converged")
    assert "hook node_left/bad (c2): failed" in output
    # It is not forgotten with the next run.
    node.run("--reason", "timer")
    shown = node.run("--status")[1]
    assert "hook node_left/bad: failed at 20" in shown
    assert shown.endswith(": it ended with 7\n")


def test_a_node_that_is_asked_runs_what_is_for_each_node(agent, nodes):
    node = nodes("n1", agent.addr)
    tell(node, "node_left", json='{"each_node": true}')
    code, output = node.run("--hooks", "node_left", "--about=n2")
    assert (code, told(node)) == (0, ["node_left n2"])
    assert output.startswith("hook node_left/tell (n2): ok")
    assert node.run("--hooks", "node_joined", "--about=") == (0, "")
    node.hook("node_left", "bad", "#!/bin/sh\nexit 1\n", json='{"each_node": true}')
    assert node.run("--hooks", "node_left")[0] == 1
    assert node.calls == []


@pytest.mark.parametrize("arguments", [("--hooks", "whim"), ("--hooks", "node_left", "--about", "{{ x }}")])
def test_a_wrong_call_runs_nothing(nodes, arguments):
    node = nodes("n1")
    tell(node, json='{"each_node": true}')
    assert node.run(*arguments)[0] == 2
    assert told(node) == []


# ---------------------------------------------------------------- too few nodes


def test_too_few_nodes_are_told_of_once_by_a_second_look_without_a_second_run(agent, nodes):
    keep(agent, c1="alive", c2="alive")
    node = nodes("n1", agent.addr, minimum_nodes=2, minimum_grace_s=2)
    tell(node, "below_minimum")
    code, output = node.run(*EVENT)
    assert (code, told(node), len(node.calls)) == (0, ["below_minimum"], 1), output
    assert kept(agent)["below_minimum"] is True
    # The word of the run is still there for the timers of the others.
    assert lock.look(agent.client)[0]["outcome"] == "converged"
    node.run(*EVENT)
    node.run("--reason", "hand")
    assert told(node) == ["below_minimum"]


def test_of_all_that_wait_for_the_second_look_one_tells_of_it(agent, nodes):
    keep(agent, c1="alive", c2="alive")
    pair = [nodes(name, agent.addr, minimum_nodes=2, minimum_grace_s=4) for name in ("n1", "n2")]
    for node in pair:
        tell(node, "below_minimum")
    processes = [node.start(*EVENT) for node in pair]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert sum((told(node) for node in pair), []) == ["below_minimum"], outputs
    assert sum(len(node.calls) for node in pair) == 1, outputs


def test_new_word_ends_the_waiting_for_the_second_look(agent, nodes, wait_for):
    keep(agent, c1="alive", c2="alive")
    node = nodes("n1", agent.addr, minimum_nodes=2, minimum_grace_s=600)
    process = node.start(*EVENT)
    wait_for(lambda: kept(agent)["turning"])
    time.sleep(1)
    assert process.poll() is None
    node.event()
    process.communicate(timeout=10)
    assert (process.returncode, node.has_word) == (0, True)


def test_runs_of_the_timer_look_a_second_time_as_well(agent, nodes):
    keep(agent, c1="alive")
    node = nodes("n1", agent.addr, minimum_nodes=2, minimum_grace_s=1, period_s=1)
    tell(node, "below_minimum")
    node.run("--reason", "timer")
    assert (told(node), bool(kept(agent)["turning"])) == ([], True)
    time.sleep(1.2)
    node.run("--reason", "timer")
    assert told(node) == ["below_minimum"]
