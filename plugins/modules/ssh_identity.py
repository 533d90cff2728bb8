#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ssh_identity
short_description: Make the SSH key of a node, once
version_added: "1.0.0"
description:
  - Makes the Ed25519 key with which a node logs in to the others, and keeps it in a file that only root can read.
  - The key is made once and never overwritten. A file that is there but damaged is an error, and stays as it is.
  - The private key never leaves the node. The public half beside it is written anew from the private one where it is missing or another one's.
  - Needs C(ssh-keygen), which is part of OpenSSH's client.
options:
  path:
    description: File of the private key. The public one has C(.pub) behind it.
    type: path
    default: /etc/vdloo-mesh/ssh/id_ed25519
attributes:
  check_mode:
    support: full
    description: Without a key, no public key is returned, because it is not known before it is made.
  diff_mode:
    support: full
    description: Shows which files are made and the public key.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Give the node its SSH key
  vdloo.mesh.ssh_identity:
  register: ssh
"""

RETURN = r"""
public_key:
  description: Kind and key, without a comment. Empty when there is none yet.
  type: str
  returned: always
  sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5W8oK0jz3f4b0hOe9N6o6i3f1bqkqgJ9m1oT5s0h2N
created:
  description: Files that were made (or would be, in check mode).
  type: list
  elements: str
  returned: always
"""

import os
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files


class KeyProblem(Exception):
    """A key that cannot be made or used; the message names the file and says what to do."""


class Keygen:
    """The program of OpenSSH. Nothing secret is on its command line: the passphrase is empty."""

    def __init__(self, module: AnsibleModule) -> None:
        self.run = module.run_command
        self.path = module.get_bin_path("ssh-keygen")
        if self.path is None:
            raise KeyProblem(
                "ssh-keygen is not installed, so the node gets no SSH key: install the client of OpenSSH "
                "(its package is openssh-client, openssh-clients or openssh)"
            )

    def make(self, folder: str) -> bytes:
        """Make a key in a folder that only root reads, and return the private half."""
        staged = os.path.join(folder, "key")
        rc, _out, err = self.run([self.path, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", staged])
        if rc != 0:
            raise KeyProblem(f"{self.path} could not make a key (code {rc}): {err.strip()[-300:]}")
        with open(staged, "rb") as stream:
            return stream.read()

    def public(self, path: str) -> str:
        """Derive the public key, "type key"."""
        rc, out, err = self.run([self.path, "-y", "-P", "", "-f", path])
        words = out.split()
        if rc != 0 or len(words) < 2:
            raise KeyProblem(
                f"{path} holds no key that can be used ({err.strip()[-200:] or 'ssh-keygen says nothing'}): restore it from a backup, "
                "or move it away to have a new one made"
            )
        return " ".join(words[:2])


def loose(path: str) -> bool:
    """Tell whether others than root (who runs this) can read a file or folder, or it is not root's."""
    status = os.stat(path)
    return status.st_uid != os.geteuid() or bool(stat.S_IMODE(status.st_mode) & 0o077)


def tighten(path: str) -> None:
    os.chown(path, os.geteuid(), os.getegid())
    os.chmod(path, 0o700 if os.path.isdir(path) else 0o600)


def read_public(path: str) -> str:
    """Read "type key"; empty when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return " ".join(stream.read().split()[:2])
    except FileNotFoundError:
        return ""


def make_key(keygen: Keygen, path: str) -> bool:
    """Make the private key unless another run was first; tell whether it was made here."""
    folder = os.path.dirname(path)
    staged = tempfile.mkdtemp(prefix=".making-", dir=folder)
    try:
        return files.write_once(path, keygen.make(staged), 0o600)
    finally:
        shutil.rmtree(staged)


def run(module: AnsibleModule) -> dict:
    path = module.params["path"]
    public_path, folder = f"{path}.pub", os.path.dirname(path)
    keygen = Keygen(module)
    there = os.path.lexists(path)
    if there and not os.path.isfile(path):
        raise KeyProblem(f"{path} is there, but is no file: move it away")
    open_to_others = [name for name in (folder, path) if os.path.exists(name) and loose(name)]
    if not module.check_mode:
        os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in open_to_others:
            tighten(name)
    created = []
    if not there and (module.check_mode or make_key(keygen, path)):
        created.append(path)
    known = read_public(public_path)
    # A dry run changes no mode, and ssh-keygen refuses a key that others can read.
    unknown = module.check_mode and (not there or path in open_to_others)
    public = (known if there else "") if unknown else keygen.public(path)
    if not public or public != known:
        created.append(public_path)
        if not module.check_mode:
            files.write(public_path, f"{public}\n".encode(), 0o644)
    return {
        "changed": bool(created or open_to_others),
        "public_key": public,
        "created": created,
        "diff": {
            "before_header": folder,
            "after_header": folder,
            "before": "".join(f"{name} readable by others than root\n" for name in open_to_others),
            "after": "".join(f"{name} readable by root alone\n" for name in open_to_others)
            + "".join(f"{name} made\n" for name in created)
            + (f"{public}\n" if public and created else ""),
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": "/etc/vdloo-mesh/ssh/id_ed25519"}},
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except KeyProblem as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the SSH key of the node could not be made: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
