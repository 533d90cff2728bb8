# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module converger_collection: it copies the collection to the node."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bundle, handing


class ActionModule(ActionBase):
    """Runs the module with what only the controller has."""

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        try:
            sha256, archive = bundle.cached(self._task.args.get("sha256") or "")
        except (bundle.BundleError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        arguments = {**self._task.args, "sha256": sha256}
        handed = None if self._task.check_mode else archive
        result.update(handing.run(self, "vdloo.mesh.converger_collection", arguments, handed, task_vars))
        return result
