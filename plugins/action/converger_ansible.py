# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module converger_ansible: it gathers the wheels for a node and copies them there."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.vdloo.mesh.plugins.action import registry_mirror
from ansible_collections.vdloo.mesh.plugins.plugin_utils import handing, wheels


class ActionModule(ActionBase):
    """Runs the module with what only the controller has."""

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        archive = None
        if not self._task.check_mode:
            try:
                archive = library() if boolean(arguments.get("system", False)) else gather(arguments)
            except wheels.WheelsError as error:
                handing.warn(str(error), task_vars)
                return {**result, "changed": False, "program": "", "problem": str(error), "lasting": error.lasting}
            except OSError as error:
                raise AnsibleActionFail(f"the wheels could not be gathered on the machine that runs Ansible: {error}") from error
        result.update(handing.run(self, "vdloo.mesh.converger_ansible", arguments, archive, task_vars))
        handing.warn(result.get("problem"), task_vars)
        return result


def gather(arguments: dict) -> Path:
    return wheels.archive(str(arguments.get("key")), list(arguments.get("requirements") or []), str(arguments.get("wheels") or ""))


def library() -> Path | None:
    """The library consul-kv as an archive, for an Ansible that the node has already; None where it is missing here too."""
    try:
        texts = registry_mirror.library()
    except registry_mirror.LibraryError:
        # The action that uses it warns of that.
        return None
    return wheels.library({f"consul_kv/{name}": text for name, text in texts.items()})
