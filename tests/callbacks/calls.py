# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: calls
type: aggregate
short_description: Counts what a run asks of its hosts
description:
  - Writes a JSON file with the number of remote calls and round trips of every host, in all and by task.
  - For the tests and benchmarks of this collection; it does not ship with it.
options:
  calls_file:
    description: The file to write. Without it nothing is counted.
    type: str
    env:
      - name: VDLOO_MESH_CALLS
author: vdloo.mesh contributors (@vdloo)
"""
# The file: {"hosts": {name: {"calls": n, "trips": n, "tasks": {task name: calls}}}}.
#
# A call is one execution of a module, one transfer of a file, or one raw command, that went over a connection other than `local`. What
# a task makes of it does not matter: `copy` makes three (stat, transfer, copy), `debug` and `assert` none, a loop one for each round.
# A delegated call counts for the host that it went to. Pipelining changes nothing.
#
# A trip is one use of the connection (with ssh: one ssh or sftp process). With pipelining a module is one trip; without it, it is several
# (make a folder, put the module there, chmod it, run it, remove the folder), and so is the first module of a run on a host whose Python has to be
# looked for.
#
# Results cannot tell these numbers: an action plugin that executes three modules returns one result. So the count is taken where each of them
# passes. Ansible forks a worker for every task after callbacks are loaded: the wrappers put around ActionBase here are what the workers
# inherit, and each call is one line, appended at once to a file that all share. Strategies that do not go through ActionBase
# (Mitogen's) cannot be counted.

import functools
import json
import os
import typing
from collections import Counter
from pathlib import Path

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

USES = ("exec_command", "put_file", "fetch_file")
# What Ansible does around modules and transfers.
HOUSEKEEPING = ("_make_tmp_path", "_remove_tmp_path", "_fixup_perms2")


class Recorder:
    """Counts in a worker, and appends to a file what was counted: {"host", "task", "calls", "trips"} a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = False
        self._busy = False
        self._trips = 0

    def installed(self) -> None:
        """Wrap ActionBase, once and for the rest of this process and those forked from it."""
        ActionBase.__init__ = self._watching(ActionBase.__init__)
        ActionBase._execute_module = self._passing(ActionBase._execute_module, calls=1)
        for name in HOUSEKEEPING:
            setattr(ActionBase, name, self._passing(getattr(ActionBase, name), calls=0))

    def _watching(self, construct: typing.Callable) -> typing.Callable:
        @functools.wraps(construct)
        def wrapper(action: ActionBase, *args: typing.Any, **kwargs: typing.Any) -> None:
            construct(action, *args, **kwargs)
            connection = action._connection
            if connection is None or connection.transport == "local":
                return
            # The rounds of a loop share one connection.
            first = not hasattr(connection, "counted_for")
            connection.counted_for = action
            for name in USES if first else ():
                setattr(connection, name, self._tripping(connection, getattr(connection, name)))

        return wrapper

    def _tripping(self, connection: typing.Any, use: typing.Callable) -> typing.Callable:
        @functools.wraps(use)
        def wrapper(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
            if self._busy:  # a transfer can be made of a command
                return use(*args, **kwargs)
            self._busy = True
            try:
                if self._open:
                    self._trips += 1
                else:
                    self._append(connection.counted_for, calls=1, trips=1)
                return use(*args, **kwargs)
            finally:
                self._busy = False

        return wrapper

    def _passing(self, method: typing.Callable, calls: int) -> typing.Callable:
        @functools.wraps(method)
        def wrapper(action: ActionBase, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
            if self._open:
                return method(action, *args, **kwargs)
            self._open, self._trips = True, 0
            try:
                return method(action, *args, **kwargs)
            finally:
                self._open = False
                if self._trips:
                    self._append(action, calls, self._trips)

        return wrapper

    def _append(self, action: ActionBase, calls: int, trips: int) -> None:
        host = action._task.delegate_to or action._templar.available_variables["inventory_hostname"]
        line = json.dumps({"host": str(host), "task": action._task.get_name(), "calls": calls, "trips": trips}) + "\n"
        # One write at the end of the file is never mixed with another's.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def totals(lines: typing.Iterable[str], hosts: typing.Iterable[str]) -> dict:
    """Sum up a recorder's lines. A host of `hosts` that nothing was asked of is there with zero."""
    found = {name: {"calls": 0, "trips": 0, "tasks": Counter()} for name in hosts}
    for line in lines:
        entry = json.loads(line)
        host = found.setdefault(entry["host"], {"calls": 0, "trips": 0, "tasks": Counter()})
        host["calls"] += entry["calls"]
        host["trips"] += entry["trips"]
        if entry["calls"]:
            host["tasks"][entry["task"]] += entry["calls"]
    return {"hosts": {name: {**host, "tasks": dict(sorted(host["tasks"].items()))} for name, host in sorted(found.items())}}


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "calls"

    def v2_playbook_on_start(self, _playbook: typing.Any) -> None:
        path = self.get_option("calls_file")
        self.path = Path(path) if path else None
        if not self.path:
            return
        # A run that breaks off must not leave the figures of the one before it.
        self.path.unlink(missing_ok=True)
        self.lines = self.path.with_name(self.path.name + ".lines")
        self.lines.unlink(missing_ok=True)
        Recorder(self.lines).installed()

    def v2_playbook_on_stats(self, stats: typing.Any) -> None:
        if not self.path:
            return
        lines = self.lines.read_text().splitlines() if self.lines.exists() else []
        # The controller itself is no host of the mesh; it is named only when it was reached by a connection.
        hosts = [name for name in stats.processed if name not in constants.LOCALHOST]
        self.path.write_text(json.dumps(totals(lines, hosts), indent=2) + "\n")
        self.lines.unlink(missing_ok=True)
