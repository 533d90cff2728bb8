# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module converger_preflight: it tells which build of the collection the node should have."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bundle, handing


class ActionModule(ActionBase):
    """Runs the module with what only the controller has."""

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        try:
            arguments = {**self._task.args, "sha256": self._task.args.get("sha256") or bundle.digest()}
        except bundle.BundleError as error:
            raise AnsibleActionFail(str(error)) from error
        result.update(self._execute_module(module_name="vdloo.mesh.converger_preflight", module_args=arguments, task_vars=task_vars))
        if boolean(arguments.get("enabled", True)):
            handing.warn(result.get("problem"), task_vars)
        return result
