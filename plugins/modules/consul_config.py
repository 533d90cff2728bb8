#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_config
short_description: Write the configuration of a Consul agent
version_added: "1.0.0"
description:
  - Writes the agent's configuration directory and makes its data directory, all in one remote call.
  - The whole directory, with the files that others have put there, is first tried in a staging copy with C(consul validate).
    When that fails, no file is changed.
  - There are up to four files. C(consul.json) has the agent's settings, C(join.json) the nodes to join, C(secrets.json)
    the gossip key, and C(bootstrap.json) the number of servers to wait for before the first election. Other files are left alone.
options:
  config:
    description: The agent's settings, without the keys that have their own files.
    type: dict
    required: true
  gossip_key:
    description: Key of the gossip, base64.
    type: str
    required: true
  retry_join:
    description: Addresses to join. The node's own address is left out.
    type: list
    elements: str
    default: []
  bind_address:
    description: The node's own address.
    type: str
    required: true
  bootstrap_expect:
    description: Number of servers to wait for before the first election. With 0 there is no C(bootstrap.json).
    type: int
    default: 0
  config_dir:
    description: The configuration directory.
    type: path
    default: /etc/consul.d
  data_dir:
    description: The data directory. It is made, and its owner and mode are kept right; nothing in it is touched.
    type: path
    default: /var/lib/consul
  user:
    description: User and group that the agent runs as.
    type: str
    default: consul
  binary:
    description: The Consul binary, for the check.
    type: path
    default: /usr/local/bin/consul
  validate:
    description: Whether that binary is the one to check with. It is not in check mode, before the installation of another version.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: With no binary yet, as in a first check, the configuration is not validated.
  diff_mode:
    support: full
    description: Shows each file before and after; of the secrets only that they change.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Configure the agent
  vdloo.mesh.consul_config:
    config: {server: true, bind_addr: fc12::1, data_dir: /var/lib/consul, datacenter: mesh}
    gossip_key: "{{ consul_gossip_key }}"
    retry_join: [fc34::2, fc56::3]
    bind_address: fc12::1
"""

RETURN = r"""
changed_paths:
  description: The files and directories that changed.
  type: list
  elements: str
  returned: success
  sample: [/etc/consul.d/consul.json]
validated:
  description: Whether C(consul validate) saw the configuration. It does not when nothing changes.
  type: bool
  returned: success
"""

import base64
import grp
import json
import os
import pwd
import shutil
import stat
import tempfile
import typing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import addresses

SECRETS = "secrets.json"
FILE_MODE = 0o640
READ_BY_CONSUL = (".json", ".hcl")


class Owner(typing.NamedTuple):
    uid: int
    gid: int


def render(content: dict) -> bytes:
    return (json.dumps(content, indent=4, sort_keys=True) + "\n").encode()


def wanted_files(options: dict) -> dict[str, bytes | None]:
    """Compute the content of each managed file; None for one that must not be there."""
    port = int((options["config"].get("ports") or {}).get("serf_lan", 8301))
    peers = addresses.other_peers(options["retry_join"], options["bind_address"], port)
    expect = options["bootstrap_expect"]
    return {
        "consul.json": render(options["config"]),
        "join.json": render({"retry_join": peers}) if peers else None,
        SECRETS: render({"encrypt": options["gossip_key"]}),
        "bootstrap.json": render({"bootstrap_expect": expect}) if expect else None,
    }


def read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def find_owner(module: AnsibleModule, name: str) -> Owner | None:
    """Look the user up; None when check mode comes before the user is made."""
    try:
        return Owner(pwd.getpwnam(name).pw_uid, grp.getgrnam(name).gr_gid)
    except KeyError:
        if module.check_mode:
            return None
        module.fail_json(msg=f"the user and group {name} must be there before the configuration")


def right(path: str, mode: int, uid: int, gid: int) -> bool:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    return (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, uid, gid)


def validate(module: AnsibleModule, wanted: dict[str, bytes | None]) -> None:
    """Let Consul judge the whole directory as it would be; fail with what it says."""
    config_dir = module.params["config_dir"]
    staging = tempfile.mkdtemp(prefix="consul-validate-", dir=module.tmpdir)
    try:
        names = os.listdir(config_dir) if os.path.isdir(config_dir) else []
        for name in names:
            path = os.path.join(config_dir, name)
            if name not in wanted and name.endswith(READ_BY_CONSUL) and os.path.isfile(path):
                shutil.copyfile(path, os.path.join(staging, name))
        for name, content in wanted.items():
            if name == SECRETS:
                # Any good key will do for the check, so the real one stays out of temporary files.
                content = render({"encrypt": base64.b64encode(os.urandom(32)).decode()})
            if content is not None:
                with open(os.path.join(staging, name), "wb") as stream:
                    stream.write(content)
        rc, out, err = module.run_command([module.params["binary"], "validate", staging])
        if rc != 0:
            reason = (out.strip() + "\n" + err.strip()).strip().replace(staging, config_dir)
            module.fail_json(msg=f"consul validate refuses the configuration, so {config_dir} was left as it is: {reason}")
    finally:
        shutil.rmtree(staging)


def describe(name: str, content: bytes | None, shown_as: str) -> str:
    if content is None:
        return ""
    return f"({shown_as})\n" if name == SECRETS else content.decode("utf-8", "replace")


def make_directory(path: str, mode: int, owner: Owner | None, check_mode: bool) -> bool:
    """Make a directory, or put its owner and mode right; tells whether that was needed."""
    if owner and right(path, mode, *owner):
        return False
    if check_mode or owner is None:
        return True
    os.makedirs(path, mode=0o755, exist_ok=True)
    os.chown(path, *owner)
    os.chmod(path, mode)
    return True


def apply(module: AnsibleModule) -> dict:
    options = module.params
    check_mode = module.check_mode
    config_dir = options["config_dir"]
    user = find_owner(module, options["user"])
    group = Owner(0, user.gid) if user else None
    wanted = wanted_files(options)
    paths = {name: os.path.join(config_dir, name) for name in wanted}
    present = {name: read(path) for name, path in paths.items()}
    differ = [name for name in wanted if wanted[name] != present[name]]
    validated = bool(differ) and options["validate"] and (os.path.isfile(options["binary"]) or not check_mode)
    if validated:
        validate(module, wanted)

    changed = [
        path
        for path, mode, owner in ((config_dir, 0o750, group), (options["data_dir"], 0o700, user))
        if make_directory(path, mode, owner, check_mode)
    ]
    for name, content in wanted.items():
        path = paths[name]
        misowned = content is not None and not (group and right(path, FILE_MODE, *group))
        if name not in differ and not misowned:
            continue
        changed.append(path)
        if check_mode or group is None:
            continue
        if content is None:
            os.unlink(path)
            files.sync_directory(config_dir)
        elif name in differ:
            files.write(path, content, FILE_MODE, *group)
        else:
            os.chown(path, *group)
            os.chmod(path, FILE_MODE)
    return {
        "changed": bool(changed),
        "changed_paths": changed,
        "validated": validated,
        "diff": [
            {
                "before_header": paths[name],
                "after_header": paths[name],
                "before": describe(name, present[name], "the old gossip key, not shown"),
                "after": describe(name, wanted[name], "another gossip key, not shown"),
            }
            for name in differ
        ],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "dict", "required": True},
            "gossip_key": {"type": "str", "required": True, "no_log": True},
            "retry_join": {"type": "list", "elements": "str", "default": []},
            "bind_address": {"type": "str", "required": True},
            "bootstrap_expect": {"type": "int", "default": 0},
            "config_dir": {"type": "path", "default": "/etc/consul.d"},
            "data_dir": {"type": "path", "default": "/var/lib/consul"},
            "user": {"type": "str", "default": "consul"},
            "binary": {"type": "path", "default": "/usr/local/bin/consul"},
            "validate": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        result = apply(module)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"the configuration in {module.params['config_dir']} could not be written: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
