#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: converger_ansible
short_description: Give a node an Ansible of its own
version_added: "1.0.0"
description:
  - Makes a venv with Ansible on the node, from wheels that the machine that runs this hands over. The node needs neither internet, nor pip, nor
    the package C(python3-venv).
  - Where the node's Python has an Ansible that is new enough, the venv uses that one, and only the library C(consul-kv) is handed over.
  - A venv counts when Ansible has run in it. The link C(current) is moved then, in one step. The one before stays, older ones go.
  - The wheels stay on the node, so that it can hand them on.
  - Where no Ansible can be had for the node, this is a warning and RV(problem), and no failure.
options:
  key:
    description: Name of the venv. It tells the Python, C library and processor that it is for, and what it is made of.
    type: str
    required: true
  python:
    description: The Python of the node that runs Ansible.
    type: path
    required: true
  requirements:
    description: What is installed, as for C(pip install).
    type: list
    elements: str
    required: true
  system:
    description: Whether O(python) has an Ansible that is new enough.
    type: bool
    default: false
  wheels:
    description:
      - Folder of wheels on the machine that runs this. They are taken instead of those of a package index.
      - Read there; the node never sees it.
    type: str
    default: ""
  directory:
    description: Where the folders C(venv) and C(wheels) are.
    type: path
    default: /opt/vdloo-mesh
  archive:
    description: The wheels on the node. Ansible fills this in.
    type: path
attributes:
  check_mode:
    support: full
    description: No wheels are fetched, so that it cannot tell whether there are any.
  diff_mode:
    support: full
    description: Shows which venv is used.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Give the node Ansible
  vdloo.mesh.converger_ansible:
    key: cp311-glibc2.36-x86_64-1a2b3c4d
    python: /usr/bin/python3
    requirements: ["ansible-core>=2.19,<2.23", "consul-kv==0.7.4"]
"""

RETURN = r"""
program:
  description: Path of ansible-playbook, which stays the same with the next venv.
  type: str
  returned: always
  sample: /opt/vdloo-mesh/venv/current/bin/ansible-playbook
problem:
  description: Why there is no Ansible, and what to do; empty when there is.
  type: str
  returned: always
lasting:
  description: Whether RV(problem) will be the same next time, unless something is changed.
  type: bool
  returned: always
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import venvs, versioned_folder


def judge(folder: str) -> None:
    """Refuse an archive with neither wheels nor the library."""
    if not any(name.endswith(".whl") or name == venvs.LIBRARY for name in os.listdir(folder)):
        raise versioned_folder.FolderError("the archive that was handed over has no wheels: run this again")


def provide(options: dict) -> None:
    """Place the wheels and make the venv, unless another run has done so meanwhile."""
    key, wheels = options["key"], os.path.join(options["directory"], "wheels")
    with versioned_folder.locked(os.path.join(options["directory"], "venv")):
        if venvs.current(os.path.join(options["directory"], "venv")) == key:
            return
        os.makedirs(wheels, mode=0o755, exist_ok=True)
        if options["archive"]:
            versioned_folder.place(wheels, key, options["archive"], judge)
        venvs.make(
            os.path.join(options["directory"], "venv"),
            key,
            options["python"],
            os.path.join(wheels, key),
            options["requirements"],
            options["system"],
        )
        versioned_folder.prune(wheels, key)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "key": {"type": "str", "required": True, "no_log": False},
            "python": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "str", "required": True},
            "system": {"type": "bool", "default": False},
            "wheels": {"type": "str", "default": ""},
            "directory": {"type": "path", "default": os.path.dirname(venvs.DIRECTORY)},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    base = os.path.join(options["directory"], "venv")
    before = versioned_folder.current(base)
    changed, problem = venvs.current(base) != options["key"], ""
    if changed and not module.check_mode:
        try:
            provide(options)
        except (venvs.VenvError, versioned_folder.FolderError) as error:
            changed, problem = False, f"Ansible could not be installed on the node: {error}"
        except OSError as error:
            module.fail_json(msg=f"Ansible could not be installed in {options['directory']}: {error}")
    after = options["key"] if module.check_mode else versioned_folder.current(base)
    module.exit_json(
        changed=changed,
        program=os.path.join(base, versioned_folder.LINK, venvs.PROGRAM),
        problem=problem,
        lasting=False,
        diff={
            "before_header": base,
            "after_header": base,
            "before": f"current -> {before}\n" if before else "",
            "after": f"current -> {after}\n" if after else "",
        },
    )


if __name__ == "__main__":
    main()
