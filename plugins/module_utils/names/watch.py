# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps the snapshot as the catalog is, and watches whether Consul can be asked at all.

The catalog comes in one call that the agent holds until something in it changes, so that a mesh in which nothing does costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import sys
import time

from . import answers
from .agent import AgentError
from .snapshot import SnapshotError, build, load, store

CATALOG = "/v1/internal/ui/nodes?stale&index={}&wait={}s"
# A catalog that keeps changing is read again after so long, and is not read faster than at this rate: each reading comes from a server.
PAUSE_S = 5.0
BYTES_PER_S = 10_000
HOLD_S, LONGEST_HOLD_S = 60, 600
# What the agent adds to a hold, and what a slow link takes.
MORE_S = 60
RETRY_S, LONGEST_RETRY_S = 2.0, 15.0
# A server that has not heard of a leader for so long tells of the past.
MOST_CONTACT_MS = 10_000
# A server that has just started tells of an older catalog until it has read its log. One that was restored from a backup goes on to.
OLDER_FOR_S = 60.0
# That the snapshot still holds is written down no more often than this, for the sake of memory cards.
WRITE_EVERY_S = 3600.0
CHECK_EVERY_S = 10.0
# A question that was answered otherwise than the last check says makes for another one, but not sooner than this.
CHECK_AGAIN_S = 1.0


def tell(text: str) -> None:
    """Say something to the journal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Watch:
    """Refreshes the snapshot of an Answerer, and tells whether answers come from Consul or from there."""

    def __init__(self, answerer: answers.Answerer) -> None:
        self.answerer, self.agent, self.path = answerer, answerer.agent, answerer.config.snapshot
        self.problem = ""
        self.stale, self.why, self.since = True, "not looked yet", time.time()
        self.last_good = 0.0
        self._retry = RETRY_S
        self._older_since = 0.0
        self._written = 0.0
        self._size = 0
        self._settled = False
        self._again = asyncio.Event()
        self._returned = asyncio.Event()
        answerer.watcher = self._saw

    def restore(self) -> None:
        """Take up what an earlier run has left."""
        for leftover in glob.glob(os.path.join(os.path.dirname(self.path), f".{os.path.basename(self.path)}-*")):
            with contextlib.suppress(OSError):
                os.unlink(leftover)
        try:
            self.answerer.snapshot = load(self.path)
        except SnapshotError as error:
            self._say(str(error))
        else:
            if self.answerer.snapshot:
                self.last_good = self._written = self.answerer.snapshot.confirmed

    def _say(self, problem: str, quietly: bool = False) -> None:
        """Note a problem, and tell the journal of one that is new."""
        if problem and problem != self.problem and not quietly:
            tell(f"snapshot: {problem}")
        self.problem = problem

    # ------------------------------------------------------------ the catalog

    async def keep(self) -> None:
        """Refresh the snapshot for ever."""
        while True:
            try:
                pause = await self._refresh()
                self._retry = RETRY_S
                self._say("")
            except (AgentError, SnapshotError) as error:
                # That Consul cannot be asked is told by the check.
                self._say(f"it is not refreshed: {error}", quietly=isinstance(error, AgentError))
                self._settled = False
                pause, self._retry = self._retry, min(2 * self._retry, LONGEST_RETRY_S)
            except OSError as error:
                self._say(f"{self.path} is not written: {error.strerror}")
                pause = LONGEST_RETRY_S
            self._returned.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._returned.wait(), pause)

    async def _refresh(self) -> float:
        """Wait for another catalog than the present one, and take it up. Return how many seconds to leave the agent alone."""
        known = self.answerer.snapshot
        # After a restart, here or there, it is read at once: another cluster may have the same index.
        index = known.index if known and self._settled else 0
        hold = int(min(max(HOLD_S, self._size / BYTES_PER_S), LONGEST_HOLD_S))
        reply = await self._first(self.agent.wait(CATALOG.format(index, hold), hold * 17 / 16 + MORE_S))
        if reply is None:
            return 0.0
        if not reply.known_leader or reply.last_contact_ms > MOST_CONTACT_MS:
            raise AgentError("the agent knows no leader")
        await self._take_up(reply)
        self._size = len(reply.body)
        return max(PAUSE_S, self._size / BYTES_PER_S)

    async def _first(self, call):
        """The answer to a call, or None when Consul came back before: then it is asked anew, and not waited for."""
        self._returned.clear()
        tasks = [asyncio.ensure_future(call), asyncio.ensure_future(self._returned.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                return tasks[0].result()
            self._settled = False
            return None
        finally:
            for task in tasks:
                task.cancel()

    async def _take_up(self, reply) -> None:
        known, loop = self.answerer.snapshot, asyncio.get_running_loop()
        if known and self._settled and reply.index == known.index:
            found = known
        else:
            members = await self.answerer.gossip.members()
            # That of a large mesh takes a while, in which names are answered.
            found = await loop.run_in_executor(None, lambda: build(reply.value(), members.datacenter, reply.index))
        if known and reply.index < known.index:
            self._older_since = self._older_since or time.monotonic()
            if time.monotonic() - self._older_since < OLDER_FOR_S:
                raise SnapshotError("the catalog is older than what is known")
        self._older_since = 0.0
        now = self.last_good = time.time()
        changed = not known or any(found.content[key] != known.content[key] for key in ("nodes", "services", "datacenter"))
        found.date(now if changed else known.taken, now)
        self.answerer.snapshot = found
        self._settled = True
        if changed or not 0 <= now - self._written < WRITE_EVERY_S:
            await loop.run_in_executor(None, store, self.path, found.content)
            self._written = now

    # ------------------------------------------------------------ Consul itself

    def _saw(self, outcome: answers.Outcome) -> None:
        if (outcome.source in (answers.SNAPSHOT, answers.NOTHING)) != self.stale:
            self._again.set()

    async def check(self) -> None:
        """Look for ever whether Consul answers and has a leader."""
        while True:
            await self._look()
            self._again.clear()
            await asyncio.sleep(CHECK_AGAIN_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._again.wait(), CHECK_EVERY_S - CHECK_AGAIN_S)

    async def _look(self) -> None:
        outcome, leader = await asyncio.gather(self.answerer.probe(), self.answerer.has_leader())
        why = outcome.why if outcome.source in (answers.SNAPSHOT, answers.NOTHING) else ""
        if not why and not leader:
            why = "the agent knows no leader"
        stale = bool(why)
        if stale != self.stale or (stale and why != self.why):
            self.since = time.time() if stale != self.stale else self.since
            told = f"Consul cannot be asked for all names ({why}): what was last known is answered" if stale else "Consul answers"
            tell(told)
            if not stale:
                self._returned.set()
        self.stale, self.why = stale, why
