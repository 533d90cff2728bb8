# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the user's hooks, each with a time limit. Nothing that a hook does makes a run fail."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import bound, clock, config, hooks, playbook, processes
from ansible_collections.vdloo.mesh.plugins.module_utils.converger.membership import Event

# How each hook of this node went the last time.
FILE = "hooks.json"
OK, FAILED, TIMED_OUT, STOPPED, REFUSED = "ok", "failed", "timed out", "stopped", "refused"
# What runs the hooks of an event that are for each node, on all of them.
ON_EACH_NODE = "vdloo.mesh.hooks"
EACH_NODE = "each node"
# Ansible itself needs a while for many nodes.
EACH_NODE_S = 60.0
POLL_S = 0.1
GRACE_S = 3.0
LOCK_S = 10.0
MOST_OUTPUT = 8 * 1024


class Ended(typing.NamedTuple):
    outcome: str  # OK, FAILED, TIMED_OUT or STOPPED
    code: int


class Runner:
    """Runs hooks. `program` is ansible-playbook, `watch` says why all has to end and is empty while it need not."""

    def __init__(
        self,
        settings: config.Config,
        program: str,
        told: dict[str, typing.Any],
        watch: typing.Callable[[], str],
        say: typing.Callable[[str], None],
    ) -> None:
        """`told` is what the hooks are told besides the event: "self", "alive", "minimum", "members" and whatever else is known."""
        self.settings = settings
        self.program = program
        self.told = told
        self.watch = watch
        self.say = say
        self.outcomes: list[dict[str, typing.Any]] = []
        self._deadline = clock.seconds() + settings.hooks_timeout_s

    def run(self, events: typing.Sequence[Event]) -> list[dict[str, typing.Any]]:
        """Run what the mesh as a whole has for these events; return {"event", "name", "node", "outcome", "seconds"} of each hook."""
        for event in events:
            found = self._find(event)
            for hook in found.hooks:
                if not hook.each_node:
                    self._run(hook, event)
            for_each = [hook for hook in found.hooks if hook.each_node]
            if for_each:
                given = {"mesh_event": event.name, "mesh_event_node": event.node}
                limit = sum(hook.timeout_s for hook in for_each) + EACH_NODE_S
                self._timed(event, EACH_NODE, lambda left, given=given: self._call(self._play(ON_EACH_NODE, given), {}, {}, left), limit)
        return self.outcomes

    def run_here(self, event: Event) -> list[dict[str, typing.Any]]:
        """Run what each node has for an event."""
        for hook in self._find(event).hooks:
            if hook.each_node:
                self._run(hook, event)
        return self.outcomes

    def _find(self, event: Event) -> hooks.Found:
        found = hooks.find(self.settings.hooks_dir, event.name)
        for word in found.ignored:
            self.say(word)
        for name, why in found.refused.items():
            self._note(event, name, REFUSED, 0.0, why)
        return found

    def _run(self, hook: hooks.Hook, event: Event) -> None:
        told = {**self.told, "event": event.name, "about": event.node}
        given = {
            "VDLOO_MESH_EVENT": event.name,
            # Not VDLOO_MESH_NODE, which the inventory plugin takes for the name of the node that it runs on.
            "VDLOO_MESH_ABOUT": event.node,
            "VDLOO_MESH_SELF": self.settings.node,
            "VDLOO_MESH_ALIVE": str(self.told["alive"]),
            "VDLOO_MESH_MINIMUM": str(self.told["minimum"]),
        }
        variables = {"mesh_event": event.name, "mesh_event_node": event.node}

        def work(left: float) -> Ended:
            began = clock.seconds()
            if hook.when:
                asked = self._call([hook.when], told, given, left)
                if asked.outcome == FAILED:
                    self.say(f"hook {event.name}/{hook.name}: its predicate says no ({asked.code})")
                    return Ended("", asked.code)
                if asked.outcome != OK:
                    return asked
            command = self._play(hook.path, variables) if hook.is_playbook else [hook.path]
            return self._call(command, told, given, left - (clock.seconds() - began))

        self._timed(event, hook.name, work, hook.timeout_s)

    def _timed(self, event: Event, name: str, work: typing.Callable[[float], Ended], limit_s: float) -> None:
        began = clock.seconds()
        left = min(limit_s, self._deadline - began)
        why = self.watch()
        if why or left <= 0:
            self._note(event, name, STOPPED, 0.0, why or f"the hooks had {self.settings.hooks_timeout_s:g} s in all, and these are over")
            return
        try:
            ended = work(left)
            why = {OK: "", FAILED: f"it ended with {ended.code}", TIMED_OUT: f"it had {left:g} s"}.get(ended.outcome, "")
            outcome = ended.outcome
        except OSError as error:
            outcome, why = FAILED, str(error)
        if outcome:
            self._note(event, name, outcome, clock.seconds() - began, why)

    def _note(self, event: Event, name: str, outcome: str, seconds: float, why: str) -> None:
        about = f" ({event.node})" if event.node else ""
        self.say(f"hook {event.name}/{name}{about}: {outcome}, {seconds:.1f} s{': ' + why if why else ''}")
        entry = {"event": event.name, "name": name, "node": event.node, "outcome": outcome, "seconds": round(seconds, 1)}
        self.outcomes.append(entry)
        try:
            keep(self.settings.state(FILE), {**entry, "why": why, "at": clock.now()}, self.settings.hooks_dir)
        except OSError as error:
            self.say(f"{self.settings.state(FILE)}: {error}: how the hook went is not kept")

    def _play(self, name: str, variables: dict[str, str]) -> list[str]:
        return [self.program, "-i", self.settings.inventory, "-e", json.dumps(variables), name]

    def _call(self, command: list[str], told: dict, given: dict[str, str], limit_s: float) -> Ended:
        """Run a command that gets `told` on its standard input and `given` in its environment, and end it with all that it has started."""
        deadline = clock.seconds() + limit_s
        with tempfile.TemporaryFile() as stream:
            stream.write(json.dumps(told, sort_keys=True).encode())
            stream.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-IS", bound.__file__, str(os.getpid()), *command],
                stdin=stream,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**playbook.environment(self.settings), **given},
                cwd="/",
                start_new_session=True,
            )
        said: list[bytes] = []
        # A daemon: what a hook has started may keep the pipe open.
        reader = threading.Thread(target=_read, args=(process.stdout, said), daemon=True)
        reader.start()
        outcome = ""
        try:
            while not outcome and not processes.has_ended(process):
                outcome = STOPPED if self.watch() else TIMED_OUT if clock.seconds() > deadline else ""
                time.sleep(0 if outcome else POLL_S)
        finally:
            # What a hook has started and left behind ends with it.
            processes.end(process, GRACE_S)
            reader.join(1)
        self._repeat(said)
        return Ended(outcome or (OK if process.returncode == 0 else FAILED), process.returncode)

    def _repeat(self, said: list[bytes]) -> None:
        text = b"".join(said)
        for line in text[:MOST_OUTPUT].decode("utf-8", "replace").splitlines():
            self.say("  " + "".join(character if character.isprintable() else " " for character in line))
        if len(text) > MOST_OUTPUT:
            self.say("  ... and more, which is not shown")


def _read(stream: typing.IO[bytes], said: list[bytes]) -> None:
    """Read to the end, and keep the beginning."""
    kept = 0
    with contextlib.suppress(OSError, ValueError):
        while True:
            part = os.read(stream.fileno(), 4096)
            if not part:
                break
            if kept <= MOST_OUTPUT:
                said.append(part)
                kept += len(part)


def keep(path: str, entry: dict, folder: str) -> None:
    """Keep how a hook went, and forget those that are gone."""
    with files.locked(path + ".lock", LOCK_S):
        known = {name: told for name, told in load(path).items() if _is_there(folder, told)}
        known[f"{entry['event']}/{entry['name']}"] = entry
        files.write(path, (json.dumps(known, indent=2, sort_keys=True) + "\n").encode(), 0o644)


def _is_there(folder: str, told: dict) -> bool:
    try:
        found = os.listdir(os.path.join(folder, told["event"]))
    except OSError:
        return False
    return told["name"] in ("", EACH_NODE) or any(file == told["name"] or file.startswith(told["name"] + ".") for file in found)


def load(path: str) -> dict[str, dict]:
    """How each hook of this node went the last time; what cannot be read is forgotten."""
    try:
        with open(path, "rb") as stream:
            known = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return {}
    wanted = ("event", "name", "outcome", "at", "why")
    return {
        name: told
        for name, told in (known.items() if isinstance(known, dict) else ())
        if isinstance(told, dict) and all(isinstance(told.get(field), str) for field in wanted)
    }


def failed(known: dict[str, dict]) -> list[str]:
    """A line for each hook that did not go well the last time."""
    return [
        f"hook {name}: {told['outcome']} at {told['at']}{': ' + told['why'] if told['why'] else ''}"
        for name, told in sorted(known.items())
        if told["outcome"] != OK
    ]
