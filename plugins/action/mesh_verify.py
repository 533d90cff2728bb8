# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks at a node again after a run has brought new settings to it, with one remote call. The documentation is in the module of this name."""

from __future__ import annotations

import typing

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.vdloo.mesh.plugins.plugin_utils import drift, expected, memory, rendering, rollout


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        super().run(tmp, task_vars)
        specification = {"look": {"type": "str", "required": True}, "plan": {"type": "dict", "required": True}}
        _result, arguments = self.validate_argument_spec(specification)
        after = self._execute_module(module_name="vdloo.mesh.node_info", module_args={}, task_vars=task_vars)
        if after.get("failed") or after.get("unreachable"):
            return after
        name = task_vars["inventory_hostname"]
        planned = rendering.plain(arguments["plan"])
        before = rendering.plain(task_vars[arguments["look"]])
        due = planned["hosts"][name]["drift"]
        left = self._left(name, rendering.plain(after), planned, arguments["look"], task_vars)
        found = rollout.problems(before, rendering.plain(after), due, left, rollout.is_suspect(before, due, planned["settings_digest"]))
        told = {"failed": True, "msg": f"{name} is not well with the new settings: {'; '.join(found)}"} if found else {}
        return {"changed": False, "problems": found, **told}

    def _left(self, name: str, after: dict, planned: dict, look: str, task_vars: dict[str, typing.Any]) -> dict[str, list[str]]:
        """What the plan would still have for the node, by role."""
        hostvars = task_vars["hostvars"]
        raw = hostvars.raw_get(name)
        host = rendering.Host(rendering.Roles(self._loader), raw, {look, *expected.LEFT_OUT})
        rendered = memory.Memory(memory.default_path())
        wanted = planned["hosts"][name]
        # Of the nodes that it dials only what they told of passwords counts, which no settings change.
        dialled = {dial["name"]: hostvars.raw_get(dial["name"]) for dial in wanted["dials"] if dial["name"] in hostvars}
        looks = {other: rendering.plain(known[look]) for other, known in dialled.items() if look in known}
        found = drift.of_roles(
            name,
            after,
            wanted,
            # One that is by itself would not be told from one that is alone.
            {**dict.fromkeys(planned["hosts"], {}), **looks, name: after},
            boolean(expected.enabled(host, rendered)),
            planned["collection"],
            lambda _name, role, given, facts: expected.render(host, role, given, facts, rendered),
        )
        return {role: reasons for role, reasons in found.items() if role not in wanted.get("frozen", [])}
