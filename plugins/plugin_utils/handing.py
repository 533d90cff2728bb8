# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the action plugins of the role converger share."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


def run(action: ActionBase, module: str, arguments: dict, archive: Path | None, task_vars: dict | None) -> dict:
    """Copy the archive to the node and run the module with its path there as `archive`. Ansible removes the copy."""
    if archive is not None:
        action._make_tmp_path()
        shell = action._connection._shell
        path = shell.join_path(shell.tmpdir, archive.name)
        action._transfer_file(str(archive), path)
        action._fixup_perms2((shell.tmpdir, path))
        arguments = {**arguments, "archive": path}
    return action._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)


def warn(problem: str | None, task_vars: dict | None) -> None:
    """Tell why a node cannot converge the mesh, which is no failure of the run."""
    if problem:
        name = (task_vars or {}).get("inventory_hostname", "the node")
        display.warning(f"{name} cannot converge the mesh by itself: {problem}. The other nodes go on to keep it.")
