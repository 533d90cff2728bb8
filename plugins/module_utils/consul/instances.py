# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The instances of a service: what Consul's catalog and its gossip say of them, and waiting until that is enough."""

from __future__ import annotations

import difflib
import time
import typing
import urllib.parse

from . import agent as gossip
from . import client

NODE_MAINTENANCE = "_node_maintenance"
SERVICE_MAINTENANCE = "_service_maintenance:"
# What is heard of gossip only is looked for this often, also while nothing changes in the catalog. Seconds.
BLOCK_S = 30.0
LONGEST_PAUSE_S = 15.0
# Looks that follow one another without a pause would be a load for the agent, whatever it answers; and Consul takes a wait of 0 for one of minutes.
LEAST_PAUSE_S = 0.1
# With less time than this an agent that is only slow would pass for one that does not answer.
LAST_LOOK_S = 1.0
MOST_NAMED = 10
LONGEST_OUTPUT = 200


class Check(typing.NamedTuple):
    id: str
    name: str
    status: str  # passing, warning or critical
    output: str

    @property
    def is_maintenance(self) -> bool:
        return self.id == NODE_MAINTENANCE or self.id.startswith(SERVICE_MAINTENANCE)


class Instance(typing.NamedTuple):
    """One instance, with the checks of its own and those of its node."""

    node: str
    id: str
    address: str
    port: int
    tags: list[str]
    checks: list[Check]
    is_alive: bool  # what gossip says of its node

    @property
    def is_in_maintenance(self) -> bool:
        return any(check.is_maintenance for check in self.checks)

    def faults(self, in_maintenance: bool = False) -> list[str]:
        """Why nobody is to be sent to it; empty for a healthy one. With `in_maintenance`, a maintenance is no reason."""
        found = [] if self.is_alive else ["its node is not alive for the others"]
        for check in self.checks:
            if check.is_maintenance:
                found += [] if in_maintenance else [f"in maintenance ({one_line(check.output) or 'no reason given'})"]
            elif check.status != "passing":
                found.append(f"check {one_line(check.name or check.id)!r} is {check.status}: {one_line(check.output) or 'it says nothing'}")
        return found


class Wish(typing.NamedTuple):
    """Which instances are wanted, and how many of them."""

    name: str
    count: int = 1
    tag: str = ""
    node: str = ""
    in_maintenance: bool = False

    def of(self, seen: list[Instance]) -> list[Instance]:
        """Those that it is about, healthy or not."""
        return [one for one in seen if self.node in ("", one.node) and (not self.tag or self.tag in one.tags)]

    def healthy(self, seen: list[Instance]) -> list[Instance]:
        return [one for one in self.of(seen) if not one.faults(self.in_maintenance)]

    def lack(self, seen: list[Instance]) -> str:
        """What is missing, in one line; empty when nothing is."""
        number, candidates = len(self.healthy(seen)), self.of(seen)
        if number >= self.count:
            return ""
        what = f"{self.name}" + (f" with the tag {self.tag}" if self.tag else "") + (f" on {self.node}" if self.node else "")
        text = f"{self.count} healthy {'instance' if self.count == 1 else 'instances'} of {what} wanted, {number} there"
        unwell = [f"{one.node}: {'; '.join(faults)}" for one in candidates for faults in [one.faults(self.in_maintenance)] if faults]
        if unwell:
            text += ". Not healthy: " + ". ".join(_few(unwell))
        elif not candidates and seen:
            text += f". It is registered on {', '.join(_few(sorted({one.node for one in seen})))}"
            if self.tag:
                tags = sorted({tag for one in seen for tag in one.tags})
                text += f", with the tags {', '.join(_few(tags))}" if tags else ", without tags"
        elif not candidates:
            text += f". Nobody registered the service {self.name}"
        return text


def one_line(text: str) -> str:
    """What a check says, short and without what would move a terminal's cursor."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= LONGEST_OUTPUT else line[:LONGEST_OUTPUT] + " ..."


def _few(texts: list[str]) -> list[str]:
    return texts if len(texts) <= MOST_NAMED else [*texts[:MOST_NAMED], f"and {len(texts) - MOST_NAMED} more"]


def parse(entries: typing.Any, alive: typing.Collection[str]) -> list[Instance]:
    """Read the answer of /v1/health/service, sorted by node and id. Raises ClientError for one that is not Consul's."""
    try:
        found = [
            Instance(
                node=str(entry["Node"]["Node"]),
                id=str(entry["Service"]["ID"]),
                address=str(entry["Service"].get("Address") or entry["Node"].get("Address") or ""),
                port=int(entry["Service"].get("Port") or 0),
                tags=[str(tag) for tag in entry["Service"].get("Tags") or []],
                checks=[
                    Check(str(check["CheckID"]), str(check.get("Name") or ""), str(check["Status"]), _said(check))
                    for check in entry["Checks"] or []
                ],
                is_alive=entry["Node"]["Node"] in alive,
            )
            for entry in entries
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise client.ClientError("GET /v1/health/service: the answer is not what Consul answers") from None
    return sorted(found, key=lambda one: (one.node, one.id))


def _said(check: dict) -> str:
    # The reason of a maintenance is in its notes.
    return str(check.get("Output") or check.get("Notes") or "")


def path_of(name: str) -> str:
    return "/v1/health/service/" + urllib.parse.quote(name, safe="")


def look(agent: client.Client, name: str, timeout: float = client.SLOW_CALL_S) -> list[Instance]:
    """The instances as the leader knows them at this moment. Raises ClientError, also without a leader."""
    entries = agent.get(path_of(name), {"consistent": ""}, timeout=timeout).value
    return parse(entries, gossip.alive_names(agent.members(timeout=timeout)))


def wait(
    agent: client.Client,
    name: str,
    lack: typing.Callable[[list[Instance]], str],
    timeout: float,
    interval: float = 2.0,
    steady: float = 0.0,
) -> tuple[list[Instance], str]:
    """Look until `lack` of the instances is empty, and has been for `steady` seconds. With a `timeout` of 0, look once.

    Ends within `timeout` seconds whatever the agent does. Returns the instances that were seen last, and what is missing of them or why the
    agent could not be asked; empty when nothing is. After an error it pauses for `interval` seconds, then for twice as long, and so on.
    """
    deadline = time.monotonic() + (timeout or client.SLOW_CALL_S)
    seen: list[Instance] = []
    index, pause, well_since, known = 0, interval, None, ""
    while True:
        left = deadline - time.monotonic()
        began = time.monotonic()
        try:
            # Without a leader nobody tells the catalog who died: then its last state counts, of those whom gossip knows alive.
            has_leader = bool(agent.leader(timeout=_of(left)))
            nap = interval if not has_leader or any(not one.is_alive for one in seen) else BLOCK_S
            if well_since is not None:
                nap = min(nap, well_since + steady - time.monotonic())
            agent.timeout = _of(left) / 2
            nap = max(LEAST_PAUSE_S, min(nap, (left - agent.timeout) / (1 + client.WAIT_JITTER) - LAST_LOOK_S / 2))
            reply = agent.watch(path_of(name), index, nap, {} if has_leader else {"stale": ""})
            seen = parse(reply.value, gossip.alive_names(agent.members(timeout=_of(deadline - time.monotonic()))))
        except client.ClientError as error:
            missing = f"the agent does not answer: {error}" + (f". Before that: {known}" if known else "")
            well_since, index, rest, pause = None, 0, pause, min(pause * 2, LONGEST_PAUSE_S)
        else:
            known = missing = lack(seen)
            # An agent that does not hold the query is not to be asked without end.
            is_held = reply.index > index or time.monotonic() - began > nap / 2
            index, rest, pause = reply.index, LEAST_PAUSE_S if is_held else interval, interval
            now = time.monotonic()
            well_since = None if missing else now if well_since is None else well_since
            if well_since is not None:
                if now - well_since >= steady:
                    return seen, ""
                missing = f"healthy for {now - well_since:.0f} s only, {steady:g} s are wanted"
                rest = min(rest, max(0.0, well_since + steady - now))
        if not timeout or deadline - time.monotonic() - rest < LAST_LOOK_S:
            return seen, missing
        time.sleep(rest)


def _of(left: float) -> float:
    """How long a call may take out of the time that is left."""
    return max(0.1, min(client.SLOW_CALL_S, left))


def similar_names(agent: client.Client, name: str) -> list[str]:
    """The names of registered services that one may have meant; those of all, if there are few. Empty when they cannot be had."""
    try:
        listed = agent.get("/v1/catalog/services", {"stale": ""}, timeout=LAST_LOOK_S).value
    except client.ClientError:
        return []
    names = sorted(map(str, listed)) if isinstance(listed, dict) else []
    return difflib.get_close_matches(name, names, 5, 0.5) or (names if len(names) <= MOST_NAMED else [])
