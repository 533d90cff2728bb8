#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mesh_state
short_description: Read and keep what a node knows of its mesh
version_added: "1.0.0"
description:
  - Every node keeps the secrets of the mesh, the registry of its nodes and what the operator set, so that a run can start from any of them.
  - Without O(secrets), O(found), O(registry), O(settings) and O(rollout), the module only reads.
  - Secrets are made or placed once and never overwritten. Other secrets on the node than those given are an error,
    as the node then belongs to another mesh.
  - Files are replaced whole or not at all, and belong to root alone.
options:
  found:
    description:
      - Make the secrets of a new mesh on this node, unless it has some already.
      - Two runs that found the same mesh at the same time end with the secrets of whichever came first.
    type: bool
    default: false
  seeds:
    description: With O(found), the names of the nodes that start the new mesh's Consul together. Kept with the secrets.
    type: list
    elements: str
    default: []
  secrets:
    description: The mesh's secrets, as RV(secrets) of another node.
    type: dict
    suboptions:
      generation:
        description: Tells this mesh from every other.
        type: str
        required: true
      gossip_key:
        description: Encrypts Consul's gossip; 32 bytes in base64.
        type: str
        required: true
      seeds:
        description: The names of the nodes that started the mesh's Consul together.
        type: list
        elements: str
        required: true
  registry:
    description:
      - The registry to keep, a dictionary of node records by name. Records on the node that are newer stay, as another run may have brought them
        meanwhile. Damaged ones go.
    type: dict
  settings:
    description:
      - The settings of the mesh to keep, a record as RV(settings). They replace those on the node, unless these are newer.
      - Damaged settings on the node are moved aside, to a name with C(.damaged-) and the time.
    type: dict
  rollout:
    description:
      - Mark the node as one on which settings are tried that the mesh does not keep yet, for other runs to leave it alone meanwhile.
      - An empty dictionary takes the mark away. It does not outlive a reboot.
    type: dict
    suboptions:
      by:
        description: The machine that tries them.
        type: str
        default: ""
      values:
        description: Digest of their values.
        type: str
        default: ""
      stopped:
        description: Why they are tried no longer; empty while they are.
        type: str
        default: ""
  secrets_file:
    description: Where the secrets are kept.
    type: path
    default: /etc/vdloo-mesh/secrets.json
  registry_file:
    description: Where the registry is kept.
    type: path
    default: /var/lib/vdloo-mesh/registry.json
  settings_file:
    description: Where the settings are kept.
    type: path
    default: /var/lib/vdloo-mesh/settings.json
  rollout_file:
    description: Where the mark is.
    type: path
    default: /run/vdloo-mesh/rollout.json
attributes:
  check_mode:
    support: full
    description: Says what would be made or placed, and changes nothing.
  diff_mode:
    support: full
    description: Shows the change of the registry and of the settings. Secrets are never shown.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Read what each node knows
  vdloo.mesh.mesh_state:
  register: known
  no_log: true

- name: Found a mesh
  vdloo.mesh.mesh_state:
    found: true
    seeds: [vps1, vps2, vps3]
  run_once: true
  no_log: true
"""

RETURN = r"""
secrets:
  description:
    - The mesh's secrets that the node holds, or C(null). Register them with C(no_log).
    - With O(secrets), Ansible masks what was handed in.
    - C(generation) tells this mesh from every other, C(gossip_key) encrypts Consul's gossip, C(seeds) are the nodes that started it.
  type: dict
  returned: always
registry:
  description: The registry that the node holds, node records by name.
  type: dict
  returned: always
settings:
  description: The settings that the node holds; empty when it knows of none, or only of damaged ones.
  type: dict
  returned: always
"""

import base64
import contextlib
import json
import os
import secrets as random_source
import time
import uuid

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files, on_disk
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.module_utils import settings as settings_records


class StateError(ValueError):
    """What is wrong with a file on the node, and what to do."""


def check_secrets(value: dict, source: str) -> None:
    """Raise StateError unless `value` holds usable secrets. `source` names where they come from."""
    try:
        key = base64.b64decode(value["gossip_key"], validate=True)
        usable = len(key) in (16, 24, 32) and isinstance(value["generation"], str) and isinstance(value["seeds"], list)
    except (KeyError, TypeError, ValueError):
        usable = False
    if not usable:
        raise StateError(f"{source} does not hold a mesh's secrets: restore it from another node of the mesh, it was left as it is")


def write_json(path: str, value: dict, replace: bool) -> bool:
    """Write a file whole, readable by root alone; tell whether this call made it. Without `replace`, a file that is there stays."""
    content = (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if not replace:
        return files.write_once(path, content, 0o600)
    files.write(path, content, 0o600)
    return True


def new_secrets(seeds: list[str]) -> dict:
    """Make the secrets of a new mesh."""
    return {
        "generation": str(uuid.uuid4()),
        "gossip_key": base64.b64encode(random_source.token_bytes(32)).decode(),
        "seeds": sorted(seeds),
    }


def keep_secrets(path: str, given: dict | None, found: bool, seeds: list[str], check_mode: bool) -> tuple[dict | None, bool]:
    """Place or make the secrets where there are none; return those of the node and whether they are new."""
    held = on_disk.read_object(path)
    if held is not None:
        check_secrets(held, path)
        if given is not None and held != given:
            raise StateError(
                f"this node belongs to another mesh: {path} is of generation {held['generation']}, this run's is "
                f"{given['generation']}. Take the node out of the inventory, or let it leave its mesh first. Nothing was changed"
            )
        return held, False
    if given is not None:
        check_secrets(given, "the option secrets")
    elif not found:
        return None, False
    wanted = given if given is not None else new_secrets(seeds)
    if check_mode:
        return wanted, True
    if not write_json(path, wanted, replace=False):
        # Another run was faster: what it wrote counts.
        return keep_secrets(path, given, found, seeds, check_mode)
    return wanted, True


def read_settings(path: str) -> tuple[dict, str]:
    """The settings on the node, and what is wrong with them: empty settings then."""
    try:
        held = on_disk.read_object(path) or {}
    except ValueError as error:
        # Unlike a damaged file, one that cannot be read is nothing that a new one would mend.
        if os.path.exists(path) and not os.access(path, os.R_OK):
            raise
        return {}, str(error)
    problem = settings_records.problem(held)
    return ({}, problem) if problem else (held, "")


def mark(path: str, wanted: dict, check_mode: bool) -> bool:
    """Mark the node, or take the mark away; tell whether that changes anything but the age of the mark."""
    if not any(wanted.values()):
        there = os.path.lexists(path)
        if there and not check_mode:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return there
    try:
        held = on_disk.read_object(path)
    except ValueError:
        held = None
    if not check_mode:
        write_json(path, wanted, replace=True)
    return held != wanted


def set_aside(path: str) -> None:
    """Move a damaged file out of the way; nothing of it is lost."""
    os.rename(path, f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")


def difference(path: str, before: dict, after: dict) -> dict[str, str]:
    """The diff of a file that holds JSON."""
    before_text, after_text = (json.dumps(value, indent=2, sort_keys=True) + "\n" for value in (before, after))
    return {"before_header": path, "after_header": path, "before": before_text, "after": after_text}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "found": {"type": "bool", "default": False},
            "seeds": {"type": "list", "elements": "str", "default": []},
            "secrets": {
                "type": "dict",
                # Only the key in it is: masking all would mask the names of the seeds everywhere.
                "no_log": False,
                "options": {
                    "generation": {"type": "str", "required": True},
                    "gossip_key": {"type": "str", "required": True, "no_log": True},
                    "seeds": {"type": "list", "elements": "str", "required": True},
                },
            },
            "registry": {"type": "dict"},
            "settings": {"type": "dict"},
            "rollout": {
                "type": "dict",
                "options": {name: {"type": "str", "default": ""} for name in ("by", "values", "stopped")},
            },
            "secrets_file": {"type": "path", "default": "/etc/vdloo-mesh/secrets.json", "no_log": False},
            "registry_file": {"type": "path", "default": "/var/lib/vdloo-mesh/registry.json"},
            "settings_file": {"type": "path", "default": "/var/lib/vdloo-mesh/settings.json"},
            "rollout_file": {"type": "path", "default": "/run/vdloo-mesh/rollout.json"},
        },
        mutually_exclusive=[("found", "secrets")],
        supports_check_mode=True,
    )
    options = module.params
    problem = settings_records.problem(options["settings"] or {})
    if problem:
        module.fail_json(msg=f"settings: {problem}. Nothing was changed")
    try:
        held, changed = keep_secrets(options["secrets_file"], options["secrets"], options["found"], options["seeds"], module.check_mode)
        registry = on_disk.read_object(options["registry_file"]) or {}
        settings, damage = read_settings(options["settings_file"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    diff = []
    if changed:
        diff.append(
            {"before_header": options["secrets_file"], "after_header": options["secrets_file"], "before": "", "after": "(secret)\n"}
        )
    given = options["registry"]
    # Another run may have brought newer records since this one looked: a node that left meanwhile must not be taken in again.
    wanted = registry if given is None else records.merge(records.sift(registry, given)[0], given)
    if wanted != registry:
        changed = True
        diff.append(difference(options["registry_file"], registry, wanted))
        if not module.check_mode:
            write_json(options["registry_file"], wanted, replace=True)
        registry = wanted
    # Another run may have brought newer ones since this one looked.
    wanted = settings_records.merge(settings, options["settings"] or {})
    if wanted != settings:
        changed = True
        diff.append(difference(options["settings_file"], settings, wanted))
        if not module.check_mode:
            if damage:
                set_aside(options["settings_file"])
            write_json(options["settings_file"], wanted, replace=True)
        settings = wanted
    # Only now: without the mark another run goes by the settings that the node keeps.
    if options["rollout"] is not None:
        changed = mark(options["rollout_file"], options["rollout"], module.check_mode) or changed
    if damage:
        module.warn(f"the settings in {options['settings_file']} are damaged ({damage})" + (": they were set aside" if settings else ""))
    module.exit_json(changed=changed, secrets=held, registry=registry, settings=settings, diff=diff)


if __name__ == "__main__":
    main()
