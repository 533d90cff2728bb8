# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The callback plugin vdloo.mesh.summary."""

from __future__ import annotations

DOCUMENTATION = r"""
name: summary
type: aggregate
short_description: Writes how a run ended to a JSON file
version_added: "1.0.0"
author: vdloo.mesh contributors (@vdloo)
description:
  - Writes one JSON file at the end of a run, with the counts of each host, what failed, and the plan that M(vdloo.mesh.mesh_plan) made.
  - The program C(vdloo-mesh-converge) uses it. It shows nothing, and the results of tasks with C(no_log) stay hidden.
  - The file holds C(started) and C(ended) (UTC as in V(2026-01-02T03:04:05Z)), C(hosts) (a dictionary with the counts C(ok), C(changed),
    C(failed) and C(unreachable) of each host), C(failures) (a list with C(host), C(task) and a C(msg) of one line) and C(plan) (a list of
    lines). It is there whole or not at all.
requirements:
  - To be enabled in the configuration, as in C(callbacks_enabled=vdloo.mesh.summary).
options:
  summary_file:
    description: The file to write. Its folder must exist. Without it nothing is written.
    type: path
    env:
      - name: VDLOO_MESH_SUMMARY
"""

import json
import typing

from ansible.plugins.callback import CallbackBase
from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock

MAX_MESSAGE = 500
PLAN_ACTIONS = ("vdloo.mesh.mesh_plan", "mesh_plan")


class CallbackModule(CallbackBase):
    """Collects what is worth telling of a run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "vdloo.mesh.summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        self.started = ""
        self.plan: list[str] = []
        # Of each host, as a task that failed may be one whose block makes up for it.
        self.failures: dict[str, list[dict[str, str]]] = {}
        self.unreachable: dict[str, dict[str, str]] = {}

    def v2_playbook_on_start(self, playbook: typing.Any) -> None:
        self.started = clock.now()

    def v2_runner_on_ok(self, result: typing.Any) -> None:
        lines = result.result.get("lines") if result.task.action in PLAN_ACTIONS else None
        if isinstance(lines, list):
            self.plan = [str(line) for line in lines]

    def v2_runner_on_failed(self, result: typing.Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self.failures.setdefault(result.host.get_name(), []).append(_told(result))

    def v2_runner_on_unreachable(self, result: typing.Any) -> None:
        self.unreachable[result.host.get_name()] = _told(result)

    def v2_playbook_on_stats(self, stats: typing.Any) -> None:
        path = self.get_option("summary_file")
        if not path:
            return
        counts = {name: stats.summarize(name) for name in sorted(stats.processed)}
        failures: list[dict[str, str]] = []
        for name, count in counts.items():
            # What counts as a failure of the host is the last that went wrong on it.
            failures += self.failures.get(name, [])[-count["failures"] :] if count["failures"] else []
            failures += [self.unreachable[name]] if count["unreachable"] and name in self.unreachable else []
        content = {
            "started": self.started,
            "ended": clock.now(),
            "hosts": {
                name: {"ok": count["ok"], "changed": count["changed"], "failed": count["failures"], "unreachable": count["unreachable"]}
                for name, count in counts.items()
            },
            "failures": failures,
            "plan": self.plan,
        }
        try:
            files.write(path, json.dumps(content).encode(), 0o600)
        except OSError as error:
            self._display.warning(f"the summary could not be written to {path}: {error.strerror}")


def _told(result: typing.Any) -> dict[str, str]:
    """{"host", "task", "msg"} of a task that failed on a host. What `no_log` hides is not in the result."""
    return {"host": result.host.get_name(), "task": result.task_name, "msg": _line(_message(result.result))}


def _message(found: dict) -> str:
    """Say what went wrong: of a loop, in its first round that did."""
    rounds = [
        entry for entry in found.get("results") or [] if isinstance(entry, dict) and (entry.get("failed") or entry.get("unreachable"))
    ]
    first = rounds[0] if rounds else found
    said = first.get("msg") or first.get("censored") or first.get("stderr") or first.get("module_stderr") or found.get("msg")
    return str(said or "it gave no reason")


def _line(text: str) -> str:
    """One line of printable characters, not too long."""
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 3] + "..."
