#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: converger_preflight
short_description: Look whether a node can converge the mesh by itself
version_added: "1.0.0"
description:
  - Looks for a Python that can run Ansible, for the way to start a program time and again, for ssh and for space, and at what of the role
    converger is there already. Nothing is changed.
options:
  directory:
    description: Where the folders C(collection), C(venv) and C(wheels) are, or will be.
    type: path
    default: /opt/vdloo-mesh
  units:
    description: The units of the role that begin runs.
    type: list
    elements: str
    default: [vdloo-mesh-converge.timer, vdloo-mesh-event.path]
  sha256:
    description: Digest of the wanted build of the collection. Ansible fills it in when it is empty.
    type: str
    default: ""
  enabled:
    description: Whether the node shall converge the mesh. Only then a RV(problem) is a warning.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: It only looks.
  diff_mode:
    support: none
    description: There is nothing to compare.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Look at the node
  vdloo.mesh.converger_preflight:
  register: node
"""

RETURN = r"""
problem:
  description: Why the node cannot converge the mesh, and what to do; empty when it can.
  type: str
  returned: always
  sample: "its Python is too old to run Ansible (/usr/bin/python3 is cpython 3.9), which needs 3.11: upgrade the distribution"
lasting:
  description: Whether RV(problem) will be the same next time, unless the node's Python or the settings change.
  type: bool
  returned: always
init:
  description: What starts a program time and again, C(systemd) or C(cron). Empty when nothing does.
  type: str
  returned: always
python:
  description: The Python that runs Ansible. Empty when there is none.
  type: str
  returned: always
  sample: /usr/bin/python3
platform:
  description: The kind of node that wheels are chosen for. Empty when it is not known.
  type: str
  returned: always
  sample: cp311-glibc2.36-x86_64
ansible:
  description: Version of the Ansible that this Python has, where the collection works with it. Empty otherwise.
  type: str
  returned: always
sha256:
  description: Digest of the wanted build.
  type: str
  returned: always
collection:
  description: Digest of the build in use. Empty when there is none, or it was edited.
  type: str
  returned: always
venv:
  description: Key of the venv in use. Empty when there is none, or it does not run.
  type: str
  returned: always
units:
  description: Which of the units systemd knows.
  type: list
  elements: str
  returned: always
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import builds, python, systemd, venvs

NEEDED_MB = 300
FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CRON = ("cron", "crond")


def init() -> str:
    """Tell what starts programs here."""
    if os.path.isdir("/run/systemd/system"):
        return "systemd"
    return "cron" if os.path.isdir("/etc/cron.d") and any(shutil.which(name, path=FOLDERS) for name in CRON) else ""


def free_mb(directory: str) -> int:
    """Tell the space that is left where a directory is, or will be."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return shutil.disk_usage(directory).free // 10**6


def judge(found: dict | None, refused: list[str], init_name: str, directory: str, venv: str) -> tuple[str, bool]:
    """Tell (why the node cannot converge the mesh, whether that will last); ("", False) when it can."""
    wanted = ".".join(map(str, python.OLDEST))
    if found is None:
        return (
            f"its Python is too old to run Ansible ({', '.join(refused) or 'none was found'}), which needs {wanted}: upgrade the "
            f"distribution, or install python{wanted} beside it and set ansible_python_interpreter to that"
        ), True
    if not found["venv"]:
        return f"{found['path']} has no module venv: install the package that has it (python3-venv)", False
    if not python.platform(found) and not python.has_ansible(found):
        return f"the C library of {found['path']} is not known: install the distribution's ansible-core, 2.19 or later", True
    if not init_name:
        return "it has neither systemd nor a cron that reads /etc/cron.d, so that nothing can start its runs: install cron", False
    if shutil.which("ssh", path=FOLDERS) is None:
        return "it has no ssh to reach the other nodes with: install openssh-client", False
    if not venv and free_mb(directory) < NEEDED_MB:
        return f"{directory} has {free_mb(directory)} MB of space left and needs {NEEDED_MB} MB: make room there", False
    return "", False


def known(units: list[str]) -> list[str]:
    """Tell which units systemd has loaded."""
    try:
        shown = systemd.show(units, ("LoadState",))
    except systemd.SystemdError:
        return []
    return [name for name in units if shown[name].get("LoadState") == "loaded"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/opt/vdloo-mesh"},
            "units": {"type": "list", "elements": "str", "default": ["vdloo-mesh-converge.timer", "vdloo-mesh-event.path"]},
            "sha256": {"type": "str", "default": ""},
            "enabled": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    directory = module.params["directory"]
    found, refused = python.choose()
    init_name = init()
    venv = venvs.current(os.path.join(directory, "venv"))
    problem, lasting = judge(found, refused, init_name, directory, venv)
    module.exit_json(
        changed=False,
        problem=problem,
        lasting=lasting,
        init=init_name,
        python=found["path"] if found else "",
        platform=python.platform(found) if found else "",
        ansible=found["ansible"] if found and python.has_ansible(found) else "",
        sha256=module.params["sha256"],
        collection=builds.current(os.path.join(directory, "collection")),
        venv=venv,
        units=known(module.params["units"]) if init_name == "systemd" else [],
    )


if __name__ == "__main__":
    main()
