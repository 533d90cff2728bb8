# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told of a run, and when it is told to the others."""

from __future__ import annotations

import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import status


class Store:
    """A Consul agent with a key/value store."""

    def __init__(self):
        self.keys, self.led = {}, True

    def leader(self):
        return "c1:8300" if self.led else ""

    def kv(self, prefix):
        return {key: value for key, value in self.keys.items() if key.startswith(prefix)}

    def put(self, path, body):
        self.keys[path[len("/v1/kv/") :]] = body.decode()


def record(ended="2026-01-02T03:00:00Z", **fields):
    return {**status.begin("n1", "timer"), "outcome": "converged", "ended": ended, **fields}


@pytest.mark.parametrize(
    ("later", "told"),
    [
        (record("2026-01-02T03:59:59Z", seconds=3.0, reason="hand"), False),
        (record("2026-01-02T04:00:00Z"), True),
        (record("2026-01-02T01:00:00Z"), True),  # the clock was set
        (record(outcome="changed", changed=["n2"]), True),
        (record(outcome="failed", failed=[{"host": "n2", "task": "T", "msg": "no"}]), True),
        (record(unreachable=["n2"]), True),
        (record(outcome="stood down", holder={"node": "n2"}), False),
        (record("2026-01-02T04:00:00Z", outcome="stood down", holder={"node": "n2"}), True),
    ],
)
def test_only_news_is_told_and_something_once_an_hour(later, told):
    store = Store()
    assert status.publish(store, record())
    assert status.publish(store, later) is told
    assert json.loads(store.keys["vdloo-mesh/v1/runs/n1"]) == (later if told else record())


@pytest.mark.parametrize("value", ["", "{", "[]", "{}", '{"ended": 5}', '{"ended": "soon", "outcome": "converged"}'])
def test_what_is_no_record_is_written_over(value):
    store = Store()
    store.keys["vdloo-mesh/v1/runs/n1"] = value
    assert status.publish(store, record())


def test_the_record_of_another_node_is_none_of_this(tmp_path):
    store = Store()
    store.keys["vdloo-mesh/v1/runs/n10"] = json.dumps(record())
    assert status.publish(store, record())


def test_without_a_leader_nothing_is_told():
    store = Store()
    store.led = False
    assert not status.publish(store, record())
    assert store.keys == {}


def test_a_summary_becomes_names():
    told = status.begin("n1", "timer")
    hosts = {"n2": {"changed": 1}, "n1": {"changed": 2, "failed": 1}, "n3": {"unreachable": 1}}
    failures = [{"host": "n1", "task": "T", "msg": str(number)} for number in range(80)]
    status.add_summary(told, {"hosts": hosts, "failures": failures})
    assert (told["changed"], told["unreachable"]) == (["n1", "n2"], ["n3"])
    assert told["failed"] == failures[: status.MOST_FAILURES]


def test_a_record_is_kept_and_found_again(tmp_path):
    path = str(tmp_path / "last-run.json")
    assert status.load(path) == {}
    status.save(path, record())
    assert status.load(path) == record()


def test_a_stood_down_run_shows_who_has_the_lock():
    told = record(started="2026-01-02T02:59:58Z", outcome="stood down", why="n2 has the lock since 2026-01-02T02:59:00Z")
    assert status.show(told) == (
        "n1: stood down, from 2026-01-02T02:59:58Z to 2026-01-02T03:00:00Z, begun by timer\n  n2 has the lock since 2026-01-02T02:59:00Z\n"
    )
