# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run of the program: mend the gossip, take the lock, run the playbook, tell how it went."""

from __future__ import annotations

import os
import threading
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import (
    clock,
    config,
    heal,
    hook_runner,
    lock,
    membership,
    playbook,
    status,
    waiting,
)

# An election takes up to about 15 s.
LEADER_S = 20.0
RETRY_S = 1.0
NO_LEADER = "Consul has no leader"
# What changes who votes, or restarts who does, is for the one that has the lock.
WITHOUT_AGREEMENT = ("--skip-tags", "consul")
CONSUL_ALONE = ("--tags", "consul")
# After these the mesh is as the run has left it, be that good or not.
PLAYED = (status.CONVERGED, status.CHANGED, status.FAILED, status.TIMED_OUT)
# How often an event waits for quiet, and a run for a membership that stays, when it does not come.
MOST_WAITS = 6


class Run:
    """A run, as `reason` (timer, event or hand) has begun it. It ends early when `stopped` is set."""

    def __init__(self, settings: config.Config, reason: str, stopped: threading.Event, say: typing.Callable[[str], None]) -> None:
        self.settings = settings
        self.stopped = stopped
        self.say = say
        self.record = status.begin(settings.node, reason)
        self.agent = client.Client(settings.consul_addr)
        # It has converged nothing, as there was nothing to do or somebody else is at it, and tells nobody of itself.
        self.idle = False
        self._began = clock.seconds()
        self._lost = ""

    def work(self, turn: int) -> dict:
        """Do it all, and return the record (see status). `turn` is the descriptor that holds the turn of this node.

        Raises ConfigError when a program or file is missing, after the record has told so.
        """
        settings = self.settings
        try:
            heal.rejoin(settings.consul_addr, settings.node, settings.state("registry.json"), self.say)
            program = config.require_programs(settings)
            self._converge(program, turn)
        except config.ConfigError as error:
            self._close(status.FAILED, str(error))
            raise
        finally:
            if self.idle:
                self.agent.close()
            else:
                self._tell()
        return self.record

    def _converge(self, program: str, turn: int) -> None:
        holder = {"node": self.settings.node, "pid": os.getpid(), "since": clock.now(), "reason": self.record["reason"]}
        obstacle, why = "", ""
        held = lock.Lock(self.settings.consul_addr, holder, self.settings.lock_ttl_s)
        if not self._wait_for_leader():
            obstacle = why = NO_LEADER
        elif self._is_fresh():
            return
        else:
            try:
                held.take(self.stopped)
            except lock.Held as error:
                obstacle, why, self.record["holder"] = error.session, str(error), error.holder
            except (lock.Resting, client.ClientError) as error:
                obstacle, why = "rest", str(error)
        if self.stopped.is_set():
            held.release()
            self._close(status.STOPPED, "before it had begun")
        elif obstacle:
            self._do_without(obstacle, why, program, turn)
        else:
            waiting.over(self.settings.run("waiting"))
            try:
                self._with_lock(held, program, turn)
            finally:
                held.release(self.record["outcome"])

    def _with_lock(self, held: lock.Lock, program: str, turn: int) -> None:
        first = self._look()
        if self.record["reason"] == "event" and first is not None and not first.has_moved:
            # Another one was faster, or it is only time to look again whether the mesh is below its minimum.
            self.idle = True
        else:
            self.say("this node has the lock, and converges the mesh")
            ended = self._play(program, (), turn, held.lost)
            self._judge(ended, status.CHANGED if self._has_changed(ended) else status.CONVERGED)
        if self.idle or self.record["outcome"] in PLAYED:
            self._tell_events(first, program, held)

    def _look(self) -> membership.Look | None:
        try:
            return membership.look(self.agent, self.settings.minimum_nodes, self.settings.minimum_grace_s)
        except client.ClientError as error:
            self.say(f"who is in the mesh cannot be told: {error}")
            return None

    def _settled(self, first: membership.Look | None) -> membership.Look | None:
        """What the run leaves behind: agents that it has restarted may seem to be gone for a moment."""
        found = self._look()
        deadline = clock.seconds() + MOST_WAITS * self.settings.event_quiet_s
        while found and found.known and found.has_moved and clock.seconds() < deadline:
            before = found
            if (first and first.record["members"] == found.record["members"]) or self.stopped.wait(self.settings.event_quiet_s):
                break
            found = self._look()
            if found and found.record["members"] == before.record["members"]:
                break
        return found

    def _tell_events(self, first: membership.Look | None, program: str, held: lock.Lock) -> None:
        """Leave word of who is in the mesh, and run the hooks of what has happened.

        The word comes first: two nodes must not tell of the same. It is left after a run that failed, too, which would otherwise begin anew with each
        agent that it restarts.
        """
        # Whatever has moved since an idle run began needs a run of its own.
        found = first if self.idle else self._settled(first)
        if found is None or self.stopped.is_set() or held.lost():
            return
        events = []
        try:
            if found.is_news and membership.save(self.agent, self.settings.node, found):
                events = found.events
        except client.ClientError as error:
            self.say(f"who is in the mesh is not in Consul: {error}")
        outcome = self.record["outcome"]
        if outcome == status.CHANGED or (outcome == status.CONVERGED and self.record["reason"] != "timer"):
            events = [*events, membership.Event(membership.AFTER_MESH)]
        if events:
            told = {
                "self": self.settings.node,
                "alive": found.alive,
                "minimum": self.settings.minimum_nodes,
                "members": found.record["members"],
                "before": found.known.get("members", {}),
                "reason": self.record["reason"],
                "changed": self.record["changed"],
            }
            runner = hook_runner.Runner(
                self.settings, program, told, lambda: status.STOPPED if self.stopped.is_set() else held.lost(), self.say
            )
            self.record["hooks"] = runner.run(events)

    def _is_fresh(self) -> bool:
        """Stand down where a timer began this run and another has just converged the mesh: one run for all of them is enough.

        Clocks that do not agree, or a store that does not answer, mean a run too many.
        """
        try:
            last, session = lock.look(self.agent)
        except client.ClientError:
            return False
        age = clock.age(last.get("ended"))
        fresh = (
            not session
            and last.get("outcome") in (status.CONVERGED, status.CHANGED)
            and age is not None
            and 0 <= age < self.settings.period_s / 2
        )
        if self.record["reason"] != "timer" or not fresh:
            return False
        self.record["holder"] = last
        self._close(status.STOOD_DOWN, f"{last.get('node', 'somebody')} has converged the mesh {age:.0f} s ago")
        return True

    def _do_without(self, obstacle: str, why: str, program: str, turn: int) -> None:
        """Stand down, or repair what needs no agreement.

        Without a leader nobody else has the lock, and what is broken may be why there is none. A lock that one session keeps for very long is
        not worth waiting for.
        """
        waited = waiting.seconds(self.settings.run("waiting"), obstacle)
        is_long = waited >= self.settings.island_after_s
        if obstacle != NO_LEADER and not is_long:
            self._close(status.STOOD_DOWN, why)
            # It looks again in a moment. Until then the record tells of the run before.
            self.idle = self.record["reason"] == "event"
            return
        self.say(f"{why}: this node repairs without the lock what needs none")
        ended = self._play(program, WITHOUT_AGREEMENT, turn, _nothing_lost)
        if is_long:
            # The next time after as long again.
            waiting.over(self.settings.run("waiting"))
            waiting.seconds(self.settings.run("waiting"), obstacle)
            if obstacle == NO_LEADER and not ended.cause:
                # A quorum does not come back to agents that do not run. The plan itself changes no voter without one.
                self.say("there has been no leader for long: Consul itself is looked after")
                # That there still is no leader is no failure of this run.
                self._play(program, CONSUL_ALONE, turn, _nothing_lost)
        self._judge(ended, status.ISLAND, why)

    def _play(self, program: str, arguments: typing.Sequence[str], turn: int, lost: typing.Callable[[], str]) -> playbook.Ended:
        deadline = clock.seconds() + self.settings.timeout_s

        def watch() -> str:
            if self.stopped.is_set():
                return status.STOPPED
            if clock.seconds() > deadline:
                return status.TIMED_OUT
            self._lost = lost()
            return status.LOST if self._lost else ""

        return playbook.run(self.settings, program, list(arguments), turn, watch)

    def _judge(self, ended: playbook.Ended, good: str, why: str = "") -> None:
        status.add_summary(self.record, ended.summary)
        if ended.cause:
            self._close(ended.cause, self._lost or f"the playbook was ended after {clock.seconds() - self._began:.0f} s")
        elif ended.code != 0:
            self._close(status.FAILED, "; ".join(filter(None, [why, f"ansible-playbook ended with {ended.code}"])))
        elif not ended.summary.get("ended"):
            self._close(status.FAILED, f"ansible-playbook ended well, but the callback {playbook.CALLBACK} has told nothing of it")
        else:
            self._close(good, why)

    @staticmethod
    def _has_changed(ended: playbook.Ended) -> bool:
        return any(counts.get("changed") for counts in (ended.summary.get("hosts") or {}).values())

    def _wait_for_leader(self) -> bool:
        deadline = clock.seconds() + LEADER_S
        while not self._leader():
            if clock.seconds() > deadline or self.stopped.wait(RETRY_S):
                return False
        return True

    def _leader(self) -> str:
        try:
            return self.agent.leader()
        except client.ClientError:
            # A client without servers answers with an error, and an agent that does not run not at all.
            return ""

    def _close(self, outcome: str, why: str) -> None:
        self.record.update(outcome=outcome, why=why, ended=clock.now(), seconds=round(clock.seconds() - self._began, 1))

    def _tell(self) -> None:
        """Keep the record on the node, and hand it to the others if they can be asked."""
        if not self.record["outcome"]:
            self._close(status.FAILED, "the program broke off")
        try:
            status.save(self.settings.state(status.FILE), self.record)
        except OSError as error:
            self.say(f"{self.settings.state(status.FILE)}: {error.strerror}: the status of this run is not kept")
        try:
            if not self.stopped.is_set():
                status.publish(self.agent, self.record)
        except client.ClientError as error:
            self.say(f"the status of this run is not in Consul: {error}")
        finally:
            self.agent.close()


def _nothing_lost() -> str:
    """What a run without the lock loses of it."""
    return ""
