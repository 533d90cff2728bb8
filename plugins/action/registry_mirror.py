# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module registry_mirror: it hands the library consul-kv to the node, which has nothing installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
import socket

from ansible.module_utils.compat.version import LooseVersion
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# The first that can return undecoded values.
OLDEST = "0.7.4"
HOW = "run `pip install consul-kv` in the Python environment of Ansible. The registry was not mirrored to Consul; the nodes keep it themselves"

display = Display()


class LibraryError(Exception):
    """Why the library cannot be handed over, and what to do."""


def library() -> dict[str, str]:
    """Return the sources of the installed consul-kv: {file name: text}. Raises LibraryError."""
    spec = importlib.util.find_spec("consul_kv")
    if spec is None or not spec.submodule_search_locations:
        raise LibraryError(f"consul-kv is not installed: {HOW}")
    try:
        version = importlib.metadata.version("consul-kv")
    except importlib.metadata.PackageNotFoundError:
        version = OLDEST  # a plain copy of it does not say
    if LooseVersion(version) < LooseVersion(OLDEST):
        raise LibraryError(f"consul-kv {version} is older than {OLDEST}: {HOW}")
    files = sorted(pathlib.Path(spec.submodule_search_locations[0]).glob("*.py"))
    if not files:
        raise LibraryError(f"consul-kv is installed without its sources in {spec.submodule_search_locations[0]}: {HOW}")
    return {path.name: path.read_text(encoding="utf-8") for path in files}


class ActionModule(ActionBase):
    """Runs the module with what only the controller has."""

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        try:
            arguments = {"by": socket.gethostname(), **self._task.args, "library": library()}
        except LibraryError as error:
            display.warning(str(error))
            return {**result, "changed": False, "mirrored": False, "written": [], "settings": False, "records": 0}
        result.update(self._execute_module(module_name="vdloo.mesh.registry_mirror", module_args=arguments, task_vars=task_vars))
        # Shown with -vvv: a library is no news.
        result.get("invocation", {}).get("module_args", {}).pop("library", None)
        return result
