# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is alive, as the gossip of the local agent has it. It knows so whatever the state of the servers is."""

from __future__ import annotations

import ipaddress
import time
import typing

from .agent import Agent, AgentError, Shared

ALIVE, LEAVING = 1, 2
MEMBERS_EVERY_S = 2.0
# An agent that has just started finds the others within this time: whom it does not list yet is taken to be as before.
REJOIN_S = 15.0
# While the agent is down, what it said last counts for so long.
MEMORY_S = 60.0


class Members(typing.NamedTuple):
    """`alive` and `dead` are names of nodes in lower case, `dead_addresses` are packed; none of these is an alive node's too."""

    alive: frozenset
    dead: frozenset
    dead_addresses: frozenset
    datacenter: str


def packed(address: object) -> bytes | None:
    """An address as DNS has it; None when it is none, such as a name."""
    try:
        return ipaddress.ip_address(str(address)).packed
    except ValueError:
        return None


def read(found: object, recent: typing.Iterable[str] = ()) -> Members:
    """Read the answer of /v1/agent/members; `recent` are those that were alive a moment ago. Raise AgentError."""
    if not isinstance(found, list):
        raise AgentError("its list of members is none")
    entries = [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("Name"), str)]
    states: dict[bool, list] = {True: [], False: []}
    for entry in entries:
        states[entry.get("Status") in (ALIVE, LEAVING)].append((entry["Name"].lower(), packed(entry.get("Addr"))))
    listed = {entry["Name"].lower() for entry in entries}
    alive = frozenset([name for name, dummy in states[True]] + [name for name in recent if name not in listed])
    held = {address for dummy, address in states[True]}
    tags = [entry.get("Tags") or {} for entry in entries]
    return Members(
        alive,
        frozenset(name for name, dummy in states[False]) - alive,
        frozenset(address for dummy, address in states[False] if address and address not in held),
        next((str(tag["dc"]).lower() for tag in tags if isinstance(tag, dict) and tag.get("dc")), ""),
    )


class Gossip:
    """The members, asked for when a name is, and not more often than every two seconds."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._shared = Shared(self._fetch, MEMBERS_EVERY_S)
        self._last: Members | None = None
        self._last_at = 0.0
        self._alive_at: dict[str, float] = {}

    async def _fetch(self) -> Members:
        reply = (await self._agent.get("/v1/agent/members")).value()
        now = time.monotonic()
        found = read(reply, [name for name, at in self._alive_at.items() if now - at < REJOIN_S])
        listed = read(reply).alive
        # Whom the agent does not list is kept with the time at which it last did.
        self._alive_at = {name: now if name in listed else self._alive_at[name] for name in found.alive}
        self._last, self._last_at = found, now
        return found

    def start(self) -> None:
        """Ask for the members now, if they will be wanted in a moment."""
        self._shared.start()

    async def members(self) -> Members:
        """Who is alive now. Raise AgentError where the agent does not say."""
        return await self._shared.value()

    def remembered(self) -> Members | None:
        """Who was alive a while ago, for when the agent is down."""
        return self._last if self._last and time.monotonic() - self._last_at < MEMORY_S else None
