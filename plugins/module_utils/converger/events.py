# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What begins a run soon when somebody has joined or left: quiet is waited for, and who is in the mesh decides.

Consul's agent leaves word by a file, which may mean nothing: a watch also begins with its agent, and goes off for each check in the mesh. What counts is
whether the membership is the one that the last run has left behind. So ten changes make one run, one run is enough for all nodes, and what a run
itself does to the membership makes no other.
"""

from __future__ import annotations

import os
import random
import threading
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock, config, lock, membership, run, status, turn

POLL_S = 1.0
# For how long one question for the lock may take: a stop waits for it.
WATCH_S = 10.0
# How often it looks whether another run of this node goes on.
BUSY_S = 2.0
# What a second look is later than it might be, so that it is not too early.
LATER_S = 1.0


class Watcher:
    """Acts on the word of the agent. It ends early when `stopped` is set."""

    def __init__(self, settings: config.Config, stopped: threading.Event, say: typing.Callable[[str], None]) -> None:
        self.settings = settings
        self.stopped = stopped
        self.say = say
        self.agent = client.Client(settings.consul_addr)
        self.word = os.path.join(settings.events_dir, membership.WORD)
        self._deadline = clock.seconds() + settings.timeout_s

    def work(self) -> dict:
        """Wait, look, and run if need be; return the record of the run, {} for none. Raises ConfigError as a run does."""
        record: dict = {}
        try:
            self._wait_for_quiet()
            while not self._is_over():
                try:
                    found = membership.look(self.agent, self.settings.minimum_nodes, self.settings.minimum_grace_s)
                except client.ClientError as error:
                    if not self._has_leader():
                        self.say(f"who is in the mesh cannot be told: {error}")
                        break
                    self._pause(run.RETRY_S)
                    continue
                if not found.is_news:
                    if not self._wait_for_second_look(found):
                        if not record:
                            self.say(
                                f"the mesh has the members that the last run has left, {found.alive} of them alive: there is nothing to do"
                            )
                        break
                elif record and found.has_moved:
                    # It has changed again, of which there is word, or the run could not tell of it, which the timer makes up for.
                    break
                elif self._is_free():
                    made = self._run()
                    record = made or record
                    self._pause(0 if made else run.RETRY_S)
            return record
        finally:
            self.agent.close()

    def _run(self) -> dict:
        try:
            with turn.taken(self.settings.run("lock"), "event") as descriptor:
                begun = run.Run(self.settings, "event", self.stopped, self.say)
                record = begun.work(descriptor)
        except turn.Busy as error:
            self.say(str(error))
            self._pause(BUSY_S)
            return {}
        # Who did not get the lock waits for it, and looks again.
        return {} if begun.idle or record["outcome"] == status.STOOD_DOWN else record

    def _is_over(self) -> bool:
        if clock.seconds() > self._deadline:
            self.say(f"waited for {self.settings.timeout_s:g} s: the timer looks after it")
            return True
        return self.stopped.is_set()

    def _pause(self, seconds: float) -> None:
        self.stopped.wait(max(0.0, min(seconds, self._deadline - clock.seconds() + LATER_S)))

    def _wait_for_quiet(self) -> None:
        quiet = self.settings.event_quiet_s
        began = last = clock.seconds()
        while clock.seconds() - last < quiet and clock.seconds() - began < run.MOST_WAITS * quiet and not self.stopped.is_set():
            self._pause(min(POLL_S, quiet / 4))
            if self._take_word():
                last = clock.seconds()
        # So that nodes which heard of it in the same moment do not all begin at once.
        self._pause(random.uniform(0, quiet / 2))
        self._take_word()

    def _take_word(self) -> bool:
        """Whether there is new word from the agent. What it says from now on is for another time."""
        try:
            os.unlink(self.word)
        except OSError:
            # Mostly there is none. What is no file is removed by what starts this.
            return False
        return True

    def _has_leader(self) -> bool:
        """Wait for an election that is under way."""
        deadline = clock.seconds() + run.LEADER_S
        while clock.seconds() < deadline and not self._is_over():
            try:
                if self.agent.leader():
                    return True
            except client.ClientError:
                pass
            self._pause(run.RETRY_S)
        return False

    def _wait_for_second_look(self, found: membership.Look) -> bool:
        """Wait until it is time to look again whether the mesh is below its minimum; False when it is not, or there is new word."""
        age = clock.age(found.record["turning"])
        if age is None:
            return False
        due = clock.seconds() + self.settings.minimum_grace_s - age + LATER_S
        # The others wait as well.
        due += random.uniform(0, self.settings.event_quiet_s / 2)
        self._deadline = max(self._deadline, due + self.settings.timeout_s)
        while clock.seconds() < due and not self.stopped.is_set():
            if os.path.lexists(self.word):
                return False
            self._pause(POLL_S)
        return True

    def _is_free(self) -> bool:
        """Wait until nobody else has the lock; False when that took a moment, after which it is time to look again."""
        index, is_first = 0, True
        while not self._is_over():
            try:
                holder, session = lock.look(self.agent)
                if not session or holder.get("node") == self.settings.node:
                    return is_first
                if is_first:
                    self.say(f"{holder.get('node', 'somebody')} has the lock since {holder.get('since', 'some time')}: waiting for it")
                is_first = False
                index = self.agent.watch(lock.KEY, index, WATCH_S, {"stale": ""}).index
            except client.ClientError:
                is_first = False
                self._pause(run.RETRY_S)
        return False
