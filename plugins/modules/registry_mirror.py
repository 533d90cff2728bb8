#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: registry_mirror
short_description: Mirror the registry of a mesh to Consul's key/value store
version_added: "1.0.0"
description:
  - Puts node records under C(vdloo-mesh/v1/registry/) in the key/value store of the Consul agent on the node, one key for each node.
  - What is there already is merged with what is given, node by node, and only records that differ are written. Nothing is ever
    deleted.
  - The registry that every node keeps in its file is the truth; this is a copy that is fast to read. So a Consul that does not
    answer, or has no leader, is a warning and no failure, and RV(mirrored) says so.
  - It talks to Consul through the library C(consul-kv). That needs to be installed only on the machine that runs Ansible, whose
    half of this module hands it to the node.
options:
  registry:
    description: The registry to mirror, a dictionary of node records by name.
    type: dict
    required: true
  settings:
    description:
      - The settings of the mesh, the record that M(vdloo.mesh.mesh_plan) returns. They are kept under C(vdloo-mesh/v1/settings), unless what is there is newer.
      - Nobody takes settings from there, as every process on a node may write the store; it shows which ones hold.
    type: dict
    default: {}
  converged:
    description:
      - Names of the nodes that this run brought to where they should be. Time and O(by) are kept for each under
        C(vdloo-mesh/v1/converged/).
      - That does not count as a change.
    type: list
    elements: str
    default: []
  by:
    description: Who ran this. By default the host name of the machine that runs Ansible.
    type: str
  consul_addr:
    description: Address of the agent's HTTP API, as seen from the node.
    type: str
    default: http://127.0.0.1:8500
  consul_token:
    description: ACL token that may read and write keys under C(vdloo-mesh/v1/).
    type: str
  timeout:
    description: Seconds to wait for each answer. Consul itself holds a call for up to 7 seconds while it has no leader.
    type: int
    default: 10
  library:
    description: The files of the library C(consul-kv), by name. Ansible fills this in.
    type: dict
requirements:
  - consul-kv >= 0.7.4 on the machine that runs Ansible; without it nothing is mirrored, which is a warning
attributes:
  check_mode:
    support: full
    description: Reads what is there, tells what would be written, and writes nothing.
  diff_mode:
    support: full
    description: Shows each record that changes.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Mirror the registry to Consul's key/value store
  vdloo.mesh.registry_mirror:
    registry: "{{ mesh_registry }}"
    converged: "{{ ansible_play_hosts }}"
  run_once: true
"""

RETURN = r"""
mirrored:
  description: Whether the store now holds all that was given. In check mode, whether it could be read.
  type: bool
  returned: success
written:
  description: Names of the nodes whose records were written, or would be.
  type: list
  elements: str
  returned: success
  sample: [vps1, vps2]
settings:
  description: Whether the settings were written, or would be.
  type: bool
  returned: success
records:
  description: Number of usable records in the store, with those that were written.
  type: int
  returned: success
  sample: 3
"""

import datetime
import importlib
import json
import os
import re
import sys
import tempfile
import types

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import registry
from ansible_collections.vdloo.mesh.plugins.module_utils import settings as settings_records
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client, mirror

# So many entries that are no records are named; a store full of them must not drown the run.
NAMED = 10


def input_problems(given: dict, converged: list[str]) -> list[str]:
    """List what is wrong with what was handed in."""
    problems = [f"registry: {registry.shown(name)}: {problem}" for name, problem in sorted(registry.sift(given, {})[1].items())]
    for name in converged:
        if not registry.DNS_LABEL.fullmatch(name):
            problems.append(f"converged: {registry.shown(name)} is not the name of a node: use DNS labels")
    return problems


def endpoint_of(addr: str) -> str:
    """Turn an address of an agent into the address of its API. Raises ValueError with what to write."""
    scheme, host, port = client.split_addr(addr)
    if scheme == "unix":
        raise ValueError(f"{addr}: consul-kv speaks no Unix sockets: write http://127.0.0.1:8500")
    return f"{scheme}://{'[' + host + ']' if ':' in host else host}:{port}/v1/"


def load_library(files: dict[str, str], folder: str) -> types.ModuleType:
    """Put the sources of consul-kv into a folder and import them from there. Raises ImportError or SyntaxError."""
    if "__init__.py" not in files:
        raise ImportError("it has no __init__.py")
    package = os.path.join(tempfile.mkdtemp(prefix="consul-kv-", dir=folder), "consul_kv")
    os.mkdir(package, 0o700)
    for name, text in files.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+\.py", name):
            raise ImportError(f"{name!r} is no file of a Python package")
        with open(os.path.join(package, name), "w", encoding="utf-8") as file:
            file.write(text)
    # First of all: another version may be installed here.
    sys.path.insert(0, os.path.dirname(package))
    importlib.invalidate_caches()
    library = importlib.import_module("consul_kv")
    if not hasattr(library, "Connection"):
        raise ImportError("it has no Connection")
    return library


def problem_warnings(problems: dict[str, str], overwritten: set[str]) -> list[str]:
    """Name the entries of the store that are no records, the first ones of many."""
    lines = [
        f"{mirror.REGISTRY}/{registry.shown(name)[1:-1]} in Consul's key/value store is not a node record ({why}): it is "
        + ("overwritten" if name in overwritten else "left alone; if it is not yours, delete it")
        for name, why in list(problems.items())[:NAMED]
    ]
    if len(problems) > NAMED:
        lines.append(f"{len(problems) - NAMED} more entries under {mirror.REGISTRY} in Consul's key/value store are not node records")
    return lines


def describe(changes: dict[str, tuple[dict | None, dict]]) -> list[dict]:
    """The diff of {key: (record before, record after)}."""
    return [
        {
            "before_header": key,
            "after_header": key,
            "before": json.dumps(before, indent=2, sort_keys=True) + "\n" if before else "",
            "after": json.dumps(after, indent=2, sort_keys=True) + "\n",
        }
        for key, (before, after) in sorted(changes.items())
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "dict", "required": True},
            "settings": {"type": "dict", "default": {}},
            "converged": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str"},
            "consul_addr": {"type": "str", "default": "http://127.0.0.1:8500"},
            "consul_token": {"type": "str", "no_log": True},
            "timeout": {"type": "int", "default": 10},
            "library": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    options = module.params
    problems = input_problems(options["registry"], options["converged"])
    problem = settings_records.problem(options["settings"])
    if problem:
        problems.append(f"settings: {problem}")
    if options["timeout"] < 1:
        problems.append(f"timeout: {options['timeout']} is no number of seconds to wait: write 10")
    try:
        endpoint = endpoint_of(options["consul_addr"])
    except ValueError as error:
        problems.append(f"consul_addr: {error}")
    if problems:
        module.fail_json(msg="\n".join(problems))
    try:
        library = load_library(options["library"] or {}, module.tmpdir)
    except (ImportError, SyntaxError) as error:
        module.fail_json(msg=f"library: what was handed in is not consul-kv: {error}")
    store = mirror.Store(library, endpoint, options["consul_token"] or "", options["timeout"])
    converged = mirror.converged_keys(options["converged"], options["by"] or "", datetime.datetime.now(datetime.timezone.utc))
    result: dict = {}
    try:
        mirror.publish(store, options["registry"], options["settings"], converged, module.check_mode, result)
    except mirror.MirrorError as error:
        module.warn(
            f"The registry was not mirrored to the Consul agent at {options['consul_addr']}: {error}. "
            "Nothing is lost, the nodes keep the registry themselves; run again when Consul is well."
        )
    changes = result.pop("changes")
    for line in problem_warnings(result.pop("problems"), set(changes)):
        module.warn(line)
    settings = result.pop("settings")
    if module._diff:
        shown = {f"{mirror.REGISTRY}/{name}": change for name, change in changes.items()}
        result["diff"] = describe({**shown, **({mirror.SETTINGS: settings} if settings else {})})
    result["settings"] = settings is not None
    module.exit_json(**result)


if __name__ == "__main__":
    main()
