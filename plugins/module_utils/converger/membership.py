# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is in the mesh, and what that means: the record that the last run left in Consul's store, and the events that lie between it and now.

A record is a dictionary of plain JSON values:

    members        {name: "alive" or "failed"}; who has left is not in it
    below_minimum  bool, whether fewer nodes are alive than the mesh is to have, as was told last
    turning        UTC as in 2026-01-02T03:04:05Z, since when the opposite is so; "" when it is not
    by, at         the node that wrote it, and when
"""

from __future__ import annotations

import base64
import json
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock
from ansible_collections.vdloo.mesh.plugins.module_utils.registry import DNS_LABEL

KEY = "/v1/kv/" + client.KV_PREFIX + "members"
ALIVE, FAILED = "alive", "failed"
# Gossip's numbers. All others have left, or are about to.
STATES = {1: ALIVE, 4: FAILED}
CLUSTER_CHANGE, AFTER_MESH, BELOW_MINIMUM = "cluster_change", "after_mesh", "below_minimum"
NODE_JOINED, NODE_LEFT = "node_joined", "node_left"
EVENTS = (NODE_JOINED, NODE_LEFT, CLUSTER_CHANGE, BELOW_MINIMUM, AFTER_MESH)
# What makes a record another one.
NEWS = ("members", "below_minimum", "turning")

# Where the agent leaves word that the membership may be another one. It may write there and nowhere else of ours; root removes the file, and
# does not read it.
FOLDER = "/var/lib/vdloo-mesh-events"
WORD = "changed"
# A node that dies stays in the catalog, and its check becomes critical. Any server may answer, also without a leader.
WATCHES = [
    {**watch, "stale": True, "handler_type": "script", "args": ["touch", f"{FOLDER}/{WORD}"]}
    for watch in ({"type": "nodes"}, {"type": "checks", "state": "critical"})
]


class Event(typing.NamedTuple):
    name: str  # one of EVENTS
    node: str = ""  # whom it is about, if anybody


class Look(typing.NamedTuple):
    """What is known, and what is so now."""

    known: dict  # {} when no run has left a record
    index: int  # of that in the store, for save()
    record: dict
    events: list[Event]  # none the first time: nobody has joined or left then

    @property
    def is_news(self) -> bool:
        return any(self.known.get(name) != self.record[name] for name in NEWS)

    @property
    def has_moved(self) -> bool:
        return self.known.get("members") != self.record["members"]

    @property
    def alive(self) -> int:
        return sum(state == ALIVE for state in self.record["members"].values())


def look(agent: client.Client, minimum: int, grace_s: float) -> Look:
    """Compare what gossip tells with what the last run left. Raises ClientError without a leader, and where the agent itself is about to leave."""
    own = (agent.myself().get("Member") or {}).get("Name")
    known, index = load(agent)
    members = agent.members()
    if not any(member.get("Name") == own and member.get("Status") in STATES for member in members if isinstance(member, dict)):
        raise client.ClientError(f"this node's agent is no member of the mesh at the moment: it has left, or is about to ({own})")
    return compare(known, index, members, minimum, grace_s)


def compare(known: dict, index: int, members: list[dict], minimum: int, grace_s: float) -> Look:
    before = known.get("members", {})
    after = seen(members, before)
    since = known.get("turning", "")
    was_below = known.get("below_minimum", False)
    is_below = sum(state == ALIVE for state in after.values()) < minimum
    below, turning = turn(was_below, clock.age(since), is_below, grace_s)
    events = between(before, after) if known else []
    if below and not was_below:
        events.append(Event(BELOW_MINIMUM))
    record = {"members": after, "below_minimum": below, "turning": since if turning == KEPT else clock.now() if turning == BEGUN else ""}
    return Look(known, index, record, events)


def seen(members: list[dict], known: dict[str, str]) -> dict[str, str]:
    """The membership as gossip tells it, over what is known.

    An agent that was restarted has forgotten those that do not answer: they have not left for that.
    """
    told = {member.get("Name"): STATES.get(member.get("Status")) for member in members if isinstance(member, dict)}
    found = {name: FAILED for name in known if name not in told}
    found.update({name: state for name, state in told.items() if state and isinstance(name, str) and DNS_LABEL.fullmatch(name)})
    return dict(sorted(found.items()))


def between(before: dict[str, str], after: dict[str, str]) -> list[Event]:
    """What has happened between two memberships."""
    came = [Event(NODE_JOINED, name) for name, state in after.items() if state == ALIVE and before.get(name) != ALIVE]
    went = [Event(NODE_LEFT, name) for name, state in sorted(before.items()) if state == ALIVE and after.get(name) != ALIVE]
    return came + went + ([Event(CLUSTER_CHANGE)] if before != after else [])


STEADY, BEGUN, KEPT = "steady", "begun", "kept"


def turn(was: bool, age_s: float | None, is_so: bool, grace_s: float) -> tuple[bool, str]:
    """Whether the mesh counts as below its minimum, which takes two looks that are `grace_s` apart, and so does the way back.

    `age_s` is how long ago the opposite of what counts was seen first, None when it was not. The second value says what becomes of that time: STEADY
    when there is none, BEGUN when it is now, KEPT when it stays.
    """
    if is_so == was:
        return was, STEADY
    # A time to come is that of another clock.
    if age_s is None or age_s < 0:
        return was, BEGUN
    return (is_so, STEADY) if age_s >= grace_s else (was, KEPT)


def load(agent: client.Client) -> tuple[dict, int]:
    """The record that the last run left, and its index; {} for none, or one that is damaged. Raises ClientError."""
    try:
        # Only the leader knows, once it has made sure that it still is the leader.
        entries = agent.get(KEY, {"consistent": ""}).value
    except client.NotFound:
        return {}, 0
    entry = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else {}
    try:
        found = json.loads(base64.b64decode(entry.get("Value") or ""))
    except (TypeError, ValueError, RecursionError):
        found = {}
    index = entry.get("ModifyIndex")
    return found if _is_record(found) else {}, index if isinstance(index, int) else 0


def save(agent: client.Client, node: str, found: Look) -> bool:
    """Leave the record of a look for the next run, unless another one was faster; say so. Raises ClientError."""
    record = {**found.record, "by": node, "at": clock.now()}
    return agent.put(KEY, json.dumps(record, sort_keys=True, separators=(",", ":")).encode(), {"cas": str(found.index)}) is True


def _is_record(found: object) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("below_minimum"), bool)
        and isinstance(found.get("turning"), str)
        and isinstance(found.get("members"), dict)
        and all(DNS_LABEL.fullmatch(name) and state in (ALIVE, FAILED) for name, state in found["members"].items())
    )
