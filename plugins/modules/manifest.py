#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: manifest
short_description: Apply the manifest of a role, whole or not at all
version_added: "1.0.0"
description:
  - Brings the files and directories of a role to what its manifest says, in one remote call. All are compared first, the new
    files are validated in a staging place that only root reads, and then each is replaced atomically. When anything fails, all is as it was before.
  - What was there before is kept, so that O(state=rolled_back) can put it back when a service does not start with the new files.
  - It records what the role manages, without the contents, for the look at the node that precedes a later run.
  - It does not restart anything. It tells which running services have not read their present files, by comparing the clock of the
    service with that of the files, so that a handler that was lost with a killed run is made up for.
  - A run that is killed between two files leaves the rest for the next run, which compares all of them again.
options:
  role:
    description: Name of the role that owns the manifest.
    type: str
    required: true
  state:
    description:
      - With V(present) the manifest is applied.
      - With V(absent) the files of the manifest are removed, and the record. All else stays, and the checks judge what is left.
      - With V(rolled_back) the files, and the record, are put back to what the services last ran with. Files that were not there before are removed.
      - With V(observed) nothing is changed, and the services are judged by what is recorded.
    type: str
    choices: [present, absent, rolled_back, observed]
    default: present
  manifest:
    description:
      - What the role manages. Each section is a list, and may be left out.
      - C(directories) have C(path), C(owner), C(group) and C(mode) (by default C(root), C(root) and C("0755")).
      - C(files) have C(path), one of C(content), C(secret=true) and C(absent=true), and C(owner), C(group), C(mode) (by default C("0644")).
        C(validate) is a command, as a list, that is given the staged file as C(%s). A link at the path is refused.
        A file with C(drop=true) is removed once a later manifest does not have it; others stay then.
      - C(checks) have C(directory), C(suffixes) and C(command), for a daemon that judges a whole directory. Its C(%s) is a copy of
        the directory with the new files, and those of others with one of the suffixes, in it.
      - C(programs) have C(path) and C(source), any text that tells which program is wanted. The program must be there. It is run with
        C(--version) when it is a new one, and what it says is recorded.
      - C(services) have C(name), a full unit name, and the paths whose change needs a C(restart) or a C(reload).
      - Required with O(state=present) and O(state=absent).
    type: dict
  secrets:
    description: Contents of the C(secret) files of the manifest, by path. They are shown nowhere.
    type: dict
    default: {}
  facts:
    description: What the manifest was rendered from and only the node could tell. Recorded; no secrets.
    type: dict
    default: {}
  validate:
    description:
      - In check mode, whether the programs on the node are those to validate with. They are not before the installation of another version.
      - Without effect outside of check mode.
    type: bool
    default: true
  wait:
    description: Seconds to wait for another run that applies a manifest on the node.
    type: int
    default: 60
  state_dir:
    description: Where the records, the previous versions and the staged files are.
    type: path
    default: /var/lib/vdloo-mesh
attributes:
  check_mode:
    support: full
    description: A program that is not installed yet does not validate, and an account that does not exist yet is not missed.
  diff_mode:
    support: full
    description: Of a secret it shows only that it changes.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Configure the ingress
  vdloo.mesh.manifest:
    role: h2o
    manifest:
      directories:
        - path: /etc/h2o
      files:
        - path: /etc/h2o/mesh.conf
          content: "{{ lookup('ansible.builtin.template', role_path ~ '/templates/mesh.conf.j2') }}"
          mode: "0640"
          validate: [/usr/bin/h2o, -t, -c, "%s"]
      programs:
        - {path: /usr/bin/h2o, source: package}
      services:
        - name: h2o.service
          restart: [/usr/bin/h2o]
          reload: [/etc/h2o/mesh.conf]
  register: applied

- name: Go back to what h2o last ran with
  vdloo.mesh.manifest:
    role: h2o
    state: rolled_back
  when: applied.can_roll_back
"""

RETURN = r"""
changed_paths:
  description: The files and directories that changed.
  type: list
  elements: str
  returned: success
  sample: [/etc/h2o/mesh.conf]
validated:
  description: The files and directories that a daemon has found valid. What does not change is not validated.
  type: list
  elements: str
  returned: when O(state=present) or O(state=absent)
  sample: [/etc/h2o/mesh.conf]
can_roll_back:
  description: Whether something changed that no service has proven yet, in this run or in one that was killed.
  type: bool
  returned: when O(state=present) or O(state=absent)
services:
  description: The services by name, as they are after the change; in check mode, as they would be.
  type: dict
  returned: success
  contains:
    running:
      description: Whether the service runs.
      type: bool
    enabled:
      description: Whether it starts at boot.
      type: bool
    since:
      description: When it was started, in seconds since the epoch. C(null) when it does not run.
      type: float
    restart:
      description: Changed paths that it reads after a restart only. Empty when it does not run.
      type: list
      elements: str
    reload:
      description: Changed paths that it reads after a reload. Empty when it does not run.
      type: list
      elements: str
"""

import functools
import json
import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import file_set, files, manifest, manifest_reader, systemd, validation
from ansible_collections.vdloo.mesh.plugins.module_utils.file_set import Change, Version
from ansible_collections.vdloo.mesh.plugins.module_utils.manifest_changes import compare, differences


class Places:
    """Where the module keeps things for one role."""

    def __init__(self, state_dir: str, role: str) -> None:
        self.base = state_dir
        self.records = os.path.join(state_dir, "manifests")
        self.record = manifest.record_path(role, self.records)
        self.previous = os.path.join(state_dir, "previous", f"{role}.json")
        self.staged = os.path.join(state_dir, "staged")
        self.lock = os.path.join(state_dir, "manifest.lock")

    def make(self) -> None:
        os.makedirs(self.base, mode=0o755, exist_ok=True)
        for directory in (self.records, os.path.dirname(self.previous), self.staged):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            os.chmod(directory, 0o700)


def render(record: dict) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def without_signatures(record: dict) -> dict:
    programs = {path: {**entry, "signature": []} for path, entry in record.get("programs", {}).items()}
    return {**record, "programs": programs}


def without(plain: dict) -> dict:
    """The manifest of a role whose files are to go."""
    gone = {path: {**entry, "content": None, "validate": []} for path, entry in plain["files"].items()}
    return {"files": gone, "checks": plain["checks"], "directories": {}, "programs": {}, "services": {}}


def recorded_change(path: str, plain: dict, role: str, facts: dict) -> tuple[list[Change], bytes]:
    """Tell whether the record has to change, and what it will be. A program's new time stamps alone are no change."""
    old = file_set.find_file(path)
    record = manifest.record(role, plain, facts, os.path.dirname(path))
    known = manifest.load(role, os.path.dirname(path))
    new = Version(file_set.FILE, render(record), 0o600, os.geteuid(), os.getegid())
    same = known is not None and without_signatures(known) == without_signatures(json.loads(new.content))
    return ([] if same else [Change(path, old, new)]), new.content


def validate(module: AnsibleModule, places: Places, plain: dict, changes: list[Change]) -> list[str]:
    changed = {change.path for change in changes if change.of_content}
    if module.check_mode and not module.params["validate"]:
        return []
    base = module.tmpdir if module.check_mode else places.staged
    directory = tempfile.mkdtemp(prefix="manifest-", dir=base)
    try:
        return validation.Stage(directory, plain, changed, module.run_command, skip_missing=module.check_mode).validate()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def unread(services: dict[str, dict], paths) -> bool:
    """Tell whether a running service has not read one of the paths yet."""
    return any(path in paths for service in services.values() for path in [*service["restart"], *service["reload"]])


def apply(module: AnsibleModule, places: Places, plain: dict) -> dict:
    role = module.params["role"]
    recorded = manifest.load(role, places.records)
    services = systemd.services(plain["services"])
    changes = compare(plain, recorded, module.check_mode)
    absent = [path for path in plain["programs"] if not os.path.isfile(path)]
    if absent and not module.check_mode:
        raise manifest_reader.ManifestError(f"the program {', '.join(absent)} of the manifest is not on the node: install it first")
    validated = validate(module, places, plain, changes)
    if module.params["state"] == "absent":
        old, record = file_set.find_file(places.record), b""
        record_change = [Change(places.record, old, Version())] if old != Version() else []
    else:
        record_change, record = recorded_change(places.record, plain, role, module.params["facts"])

    older = file_set.load(places.previous)
    unproven = older if unread(services, {change.path for change in older}) else []
    everything = changes + record_change
    if module.check_mode:
        services = foresee(services, plain["services"], {change.path for change in changes})
    elif everything:
        file_set.save(places.previous, file_set.merge(unproven, everything))
        try:
            file_set.make(everything)
        except BaseException:
            if older:
                file_set.save(places.previous, older)
            else:
                os.unlink(places.previous)
            raise
        services = systemd.services(plain["services"])
    else:
        if record and file_set.find_file(places.record).content != record:
            files.write(places.record, record, 0o600)
        if older and not unproven and all(service["running"] for service in services.values()):
            # Proven: what was before, with its secrets, is of no more use.
            os.unlink(places.previous)
    return {
        "changed": bool(everything),
        "changed_paths": [change.path for change in changes],
        "validated": validated,
        "can_roll_back": bool(changes or unproven),
        "services": services,
        "diff": differences(changes or record_change, places.record),
    }


def foresee(services: dict[str, dict], reads: dict[str, dict], changing: set[str]) -> dict[str, dict]:
    """Add what a running service would not have read to what it has not read already."""
    return {
        name: {
            **service,
            **{
                key: [path for path in reads[name][key] if path in service[key] or (service["running"] and path in changing)]
                for key in ("restart", "reload")
            },
        }
        for name, service in services.items()
    }


def judge_recorded(role: str, places: Places) -> dict[str, dict]:
    return systemd.services((manifest.load(role, places.records) or {}).get("services", {}))


def roll_back(module: AnsibleModule, places: Places) -> dict:
    way_back = file_set.reverse(file_set.load(places.previous))
    managed = manifest.load(module.params["role"], places.records) or {}
    if not module.check_mode:
        file_set.make(way_back)
        if os.path.exists(places.previous):
            os.unlink(places.previous)
    now = manifest.load(module.params["role"], places.records) or managed
    return {
        "changed": bool(way_back),
        "changed_paths": [change.path for change in way_back if change.path != places.record],
        "services": systemd.services(now.get("services", {})),
        "diff": differences(way_back, places.record),
    }


def run(module: AnsibleModule) -> dict:
    role, state = module.params["role"], module.params["state"]
    if not manifest.ROLE.match(role):
        raise manifest_reader.ManifestError(f"role {role!r} is not the name of a role")
    places = Places(module.params["state_dir"], role)
    if state == "observed":
        return {"changed": False, "changed_paths": [], "services": judge_recorded(role, places)}
    if state == "rolled_back":
        work = functools.partial(roll_back, module, places)
    else:
        plain = manifest_reader.read(module.params["manifest"], module.params["secrets"])
        work = functools.partial(apply, module, places, plain if state == "present" else without(plain))
    if module.check_mode:
        return work()
    places.make()
    with files.locked(places.lock, module.params["wait"]):
        for leftover in os.listdir(places.staged):
            # Whoever made it was killed, as we have the lock.
            shutil.rmtree(os.path.join(places.staged, leftover))
        return work()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "rolled_back", "observed"], "default": "present"},
            "manifest": {"type": "dict"},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "facts": {"type": "dict", "default": {}},
            "validate": {"type": "bool", "default": True},
            "wait": {"type": "int", "default": 60},
            "state_dir": {"type": "path", "default": "/var/lib/vdloo-mesh"},
        },
        required_if=[("state", "present", ["manifest"]), ("state", "absent", ["manifest"])],
        supports_check_mode=True,
    )
    # It would return all options, and the manifest is large.
    invocation = {"module_args": {name: value for name, value in module.params.items() if name not in ("manifest", "secrets")}}
    try:
        result = run(module)
    except (
        manifest_reader.ManifestError,
        file_set.FileSetError,
        validation.ValidationError,
        systemd.SystemdError,
        OSError,
    ) as error:
        module.fail_json(msg=f"the manifest of {module.params['role']} was not applied: {error}", invocation=invocation)
    module.exit_json(invocation=invocation, **result)


if __name__ == "__main__":
    main()
