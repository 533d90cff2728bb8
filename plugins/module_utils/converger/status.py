# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told of a run: in a file on the node, and in Consul's key/value store for the others.

A record is a dictionary of plain JSON values:

    node, reason   whose run, and what began it: timer, event or hand
    outcome        one of OUTCOMES
    why            str, one line on an outcome that does not speak for itself, "" otherwise
    started, ended UTC as in 2026-01-02T03:04:05Z
    seconds        float, how long it took
    changed        names of hosts on which something was changed
    failed         list of {"host", "task", "msg"}
    unreachable    names of hosts
    hooks          list of {"event", "name", "node", "outcome", "seconds"}, of what ran after it
    holder         {"node", "pid", "since", "reason"} of who has the lock, {} when this node had it or nobody
"""

from __future__ import annotations

import json
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock

CONVERGED, CHANGED, FAILED, STOOD_DOWN, ISLAND = "converged", "changed", "failed", "stood down", "island"
TIMED_OUT, LOST, STOPPED = "timed out", "lost the lock", "stopped"
OUTCOMES = (CONVERGED, CHANGED, FAILED, STOOD_DOWN, ISLAND, TIMED_OUT, LOST, STOPPED)
GOOD = (CONVERGED, CHANGED, STOOD_DOWN, ISLAND)
FILE = "last-run.json"
KEYS = client.KV_PREFIX + "runs/"
# What an idle mesh writes: one record of a node in this time.
STALE_S = 3600
# What makes a record another one. Who had the lock, and when, is not news.
NEWS = ("outcome", "changed", "failed", "unreachable", "hooks")
MOST_FAILURES = 50


def begin(node: str, reason: str) -> dict[str, typing.Any]:
    """The record of a run that begins now."""
    return {
        "node": node,
        "reason": reason,
        "outcome": "",
        "why": "",
        "started": clock.now(),
        "ended": "",
        "seconds": 0.0,
        "changed": [],
        "failed": [],
        "unreachable": [],
        "hooks": [],
        "holder": {},
    }


def add_summary(record: dict, summary: dict) -> None:
    """Put into a record what the callback plugin vdloo.mesh.summary told of the playbook's run."""
    hosts = summary.get("hosts") or {}
    record["changed"] = sorted(name for name, counts in hosts.items() if counts.get("changed"))
    record["unreachable"] = sorted(name for name, counts in hosts.items() if counts.get("unreachable"))
    record["failed"] = list(summary.get("failures") or [])[:MOST_FAILURES]


def save(path: str, record: dict) -> None:
    files.write(path, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode(), 0o644)


def load(path: str) -> dict:
    """The record of the last run; empty when there was none. Raises OSError and ValueError for a file that is damaged."""
    try:
        with open(path, "rb") as stream:
            record = json.load(stream)
    except FileNotFoundError:
        return {}
    if not isinstance(record, dict):
        raise ValueError("it does not hold a JSON object")
    return record


def publish(agent: client.Client, record: dict) -> bool:
    """Tell the others of a run, when it is news or they have heard nothing for long; say whether it was told. Raises ClientError.

    That another node has the lock is no news: what this one found when it had it still stands.
    """
    key = KEYS + record["node"]
    if not agent.leader():
        return False
    known = _parsed(agent.kv(key).get(key, ""))
    age = clock.between(known.get("ended"), record["ended"])
    if (
        known
        and age is not None
        and abs(age) < STALE_S
        and (record["outcome"] == STOOD_DOWN or all(known.get(n) == record[n] for n in NEWS))
    ):
        return False
    agent.put("/v1/kv/" + key, json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
    return True


def show(record: dict) -> str:
    """The record for a person."""
    if not record:
        return "vdloo-mesh-converge has not run yet on this node\n"
    told = {name: record.get(name) or "?" for name in ("node", "outcome", "started", "ended", "reason")}
    lines = ["{node}: {outcome}, from {started} to {ended}, begun by {reason}".format(**told)]
    lines += [f"  {record['why']}"] if record.get("why") else []
    lines += [f"  {name}: {', '.join(record[name])}" for name in ("changed", "unreachable") if record.get(name)]
    lines += ["  failed: {host}: {task}: {msg}".format(**failure) for failure in record.get("failed") or []]
    return "\n".join(lines) + "\n"


def _parsed(text: str) -> dict:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
