#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: consul_binary
short_description: Install a Consul binary that was proven to run
version_added: "1.0.0"
description:
  - Takes a file that is on the node already, either the binary itself or the vendor's zip archive, checks its SHA-256, runs
    C(consul version) with it, and only then puts it in place of the old one, in one step.
  - Whatever fails, the old binary stays as it was.
options:
  src:
    description: The staged file on the node. It is removed when the binary is in place, or refused.
    type: path
    required: true
  checksum:
    description: SHA-256 of O(src), with or without C(sha256:) before it.
    type: str
    required: true
  dest:
    description: Where the binary goes.
    type: path
    default: /usr/local/bin/consul
  stamp:
    description: File in which the origin of the installed binary is kept.
    type: path
    required: true
  version:
    description: The version that the binary must have. Any from 1.8 on is taken when this is empty.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: With no staged file, as in a first check, it says that a binary would be installed.
  diff_mode:
    support: full
    description: Shows the version before and after.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Install the staged binary
  vdloo.mesh.consul_binary:
    src: /var/cache/vdloo-mesh/consul.staged
    checksum: sha256:2dfb63fcabe9f15b956cf408248d9ebe36cfd662ca182352942a3bd4e5d5faca
    stamp: /var/lib/vdloo-mesh/consul-binary.json
    version: 1.21.5
"""

RETURN = r"""
version:
  description: Version of the installed binary; empty when check mode could not know it.
  type: str
  returned: success
  sample: 1.21.5
"""

import contextlib
import json
import os
import shutil
import tempfile
import zipfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import binary

ZIP_MAGIC = b"PK\x03\x04"


def unpack(src: str, dest: str) -> None:
    """Copy the binary out of `src`, which is the binary itself or a zip archive with it."""
    with open(src, "rb") as stream:
        if stream.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            shutil.copyfile(src, dest)
            return
    try:
        with zipfile.ZipFile(src) as archive, archive.open("consul") as packed, open(dest, "wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except KeyError as error:
        raise binary.BinaryError(f"{src} is an archive without a file named consul") from error
    except zipfile.BadZipFile as error:
        raise binary.BinaryError(f"{src} is a damaged archive: {error}") from error


def check_version(found: str, wanted: str) -> None:
    if wanted and found != wanted:
        raise binary.BinaryError(f"the binary is Consul {found} and not {wanted}, as consul_version says")
    if binary.parse_version(found) < binary.MINIMUM:
        raise binary.BinaryError(f"the binary is Consul {found}, below 1.8")


def install(module: AnsibleModule, before: str) -> tuple[bool, str]:
    """Prove the staged file and put it in place; returns whether anything changed, and the version."""
    src, dest = module.params["src"], module.params["dest"]
    wanted = module.params["checksum"].split(":")[-1]
    found = binary.sha256(src)
    if found != wanted:
        raise binary.BinaryError(f"{src} has the SHA-256 {found} and not {wanted}")
    # Beside its destination: on the same file system, where programs may run.
    directory = tempfile.mkdtemp(prefix=".consul-", dir=os.path.dirname(dest))
    try:
        staged = os.path.join(directory, "consul")
        unpack(src, staged)
        os.chmod(staged, 0o755)
        version = binary.run_version(staged, "the new binary")
        check_version(version, module.params["version"])
        digest = binary.sha256(staged)
        changed = not (before and binary.sha256(dest) == digest)
        if not module.check_mode:
            if changed:
                os.chown(staged, 0, 0)
                with open(staged, "rb") as stream:
                    os.fsync(stream.fileno())
                os.replace(staged, dest)
                files.sync_directory(os.path.dirname(dest))
            os.makedirs(os.path.dirname(module.params["stamp"]), mode=0o755, exist_ok=True)
            stamp = binary.make_stamp(wanted, digest, dest, version)
            files.write(module.params["stamp"], (json.dumps(stamp, sort_keys=True) + "\n").encode(), 0o644)
    finally:
        shutil.rmtree(directory)
    return changed, version


def unstage(module: AnsibleModule) -> None:
    if not module.check_mode:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(module.params["src"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "checksum": {"type": "str", "required": True},
            "dest": {"type": "path", "default": "/usr/local/bin/consul"},
            "stamp": {"type": "path", "required": True},
            "version": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    dest = module.params["dest"]
    try:
        before = binary.run_version(dest) if os.path.isfile(dest) else ""
    except binary.BinaryError:
        before = "unknown"
    src = module.params["src"]
    try:
        if module.check_mode and not os.path.isfile(src):
            changed, version = True, module.params["version"]
        else:
            changed, version = install(module, before)
    except (binary.BinaryError, OSError) as error:
        unstage(module)
        module.fail_json(msg=f"{error}; {dest} was left as it is ({before or 'not there'})")
    unstage(module)
    module.exit_json(
        changed=changed,
        version=version,
        diff={
            "before_header": dest,
            "after_header": dest,
            "before": f"Consul {before}\n" if before else "",
            "after": f"Consul {version}\n" if version else "another binary\n",
        },
    )


if __name__ == "__main__":
    main()
