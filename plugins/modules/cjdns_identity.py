#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cjdns_identity
short_description: Make the cjdns identity of a node, once
version_added: "1.0.0"
description:
  - Makes the key pair of a node with cjdns' own generator, checks it, and keeps it in a file that only root can read.
  - The identity is made once and never overwritten. A file that is there but damaged is an error, and stays as it is.
  - A node that ran cjdns before keeps its key and address, as the key in its O(config_path) is taken over.
  - Next to it two more secrets are made once. C(link-secret) is what the passwords of this node's links derive from, and
    C(admin-password) protects the admin interface.
  - The private key and these secrets never leave the node.
options:
  directory:
    description: Directory for the identity and the secrets.
    type: path
    default: /etc/cjdns
  config_path:
    description: Configuration file from which the key of an earlier installation is taken over.
    type: path
    default: /etc/cjdroute.conf
  cjdroute:
    description: The cjdroute program, whose generator makes the key.
    type: path
    default: /usr/local/bin/cjdroute
  diallers:
    description:
      - Public keys of nodes that dial this node. The module returns the password for the link of each, in RV(link_passwords).
      - A password is derived from this node's C(link-secret) and the dialler's key, so it is the same each time.
      - Set C(no_log) on a task that uses this option.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Without an identity, no address and no key is returned, because they are not known before they are made.
  diff_mode:
    support: full
    description: Shows which files are made and the public half of the identity.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Give the node its identity
  vdloo.mesh.cjdns_identity:
  register: identity

- name: Derive the password for a node that dials this one
  vdloo.mesh.cjdns_identity:
    diallers:
      - f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k
  register: links
  no_log: true
"""

RETURN = r"""
public_key:
  description: Public key of the node.
  type: str
  returned: when the identity is known
  sample: f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k
address:
  description: Overlay address of the node, in the short notation.
  type: str
  returned: when the identity is known
  sample: fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1
created:
  description: Files that were made (or would be, in check mode).
  type: list
  elements: str
  returned: always
adopted:
  description: Whether the key was taken over from an earlier configuration.
  type: bool
  returned: always
link_passwords:
  description: Password by public key of each of the O(diallers). Secret.
  type: dict
  returned: when the link secret exists
"""

import json
import os
import re
import secrets as random
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import identity, keys

# The admin clients cut a password after 53 characters.
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
PASSWORD_CHARS = 40
SECRET_FORM = {"link-secret": "[0-9a-f]{64}", "admin-password": "[0-9a-z]{31,53}"}


def generate(module: AnsibleModule) -> identity.Identity:
    """Let the daemon's own generator make an identity; nothing of it is ever on a command line."""
    cjdroute = module.params["cjdroute"]
    if not os.access(cjdroute, os.X_OK):
        module.fail_json(msg=f"{cjdroute} is not there, so no identity can be made: install cjdns first, or set cjdroute to its path")
    text = ""
    for option in ("--genconf", "--cleanconf"):
        rc, out, err = module.run_command([cjdroute, option], data=text, binary_data=True)
        if rc != 0:
            module.fail_json(msg=f"{cjdroute} {option} failed with code {rc}: {err.strip()[-400:]}")
        text = out
    try:
        generated = json.loads(text)
    except ValueError:
        module.fail_json(msg=f"{cjdroute} --cleanconf did not write JSON: is it a cjdroute of version 20 or newer?")
    try:
        return identity.from_generated(generated, f"the output of {cjdroute} --genconf")
    except identity.IdentityError as error:
        module.fail_json(msg=f"{error}. No identity was made")


def make_secret(name: str) -> str:
    """Draw a new secret in the form that its file has."""
    if name == "link-secret":
        return random.token_hex(32)
    return "".join(random.choice(ALPHABET) for _place in range(PASSWORD_CHARS))


def read_secret(directory: str, name: str) -> str | None:
    """Read a secret and check its form; None when there is none."""
    path = os.path.join(directory, name)
    text = identity.read_text(path)
    if text is not None and not re.fullmatch(SECRET_FORM[name], text.strip()):
        raise identity.IdentityError(f"{path} is damaged: repair it from a backup, or move it away to have a new one made")
    return None if text is None else text.strip()


def loose_files(paths: list[str]) -> list[str]:
    """List those files or directories that others than root (who runs this) can read, or that are not root's."""
    loose = []
    for path in paths:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            loose.append(path)
    return loose


def tighten(path: str) -> None:
    """Give a file or directory to root alone."""
    os.chown(path, os.geteuid(), os.getegid())
    os.chmod(path, 0o700 if os.path.isdir(path) else 0o600)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/cjdns"},
            "config_path": {"type": "path", "default": "/etc/cjdroute.conf"},
            "cjdroute": {"type": "path", "default": "/usr/local/bin/cjdroute"},
            "diallers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    directory = module.params["directory"]
    identity_path = os.path.join(directory, "identity.json")

    for key in module.params["diallers"]:
        try:
            keys.validate_public_key(key)
        except keys.KeyFormatError as error:
            module.fail_json(msg=f"diallers: {key!r} cannot be used: {error}")

    try:
        own, in_file = identity.present(identity_path, module.params["config_path"])
        present = {name: read_secret(directory, name) for name in SECRET_FORM}
    except identity.IdentityError as error:
        module.fail_json(msg=str(error))

    adopted = own is not None and not in_file
    missing = [] if in_file else [identity_path]
    missing += [os.path.join(directory, name) for name, text in present.items() if text is None]

    loose = loose_files([directory, identity_path, *(os.path.join(directory, name) for name in SECRET_FORM)])
    created = missing
    if not module.check_mode and (missing or loose):
        # Whatever can fail is done before the first file is made.
        texts = {path: make_secret(os.path.basename(path)) + "\n" for path in missing if path != identity_path}
        if not in_file:
            texts[identity_path] = (own or generate(module)).to_json()
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for path in loose_files([directory]) + [path for path in loose if path != directory]:
            tighten(path)
        created = [path for path, text in texts.items() if files.write_once(path, text.encode("ascii"), 0o600)]
        # Another run may have been first: what is in the files counts.
        try:
            own = identity.read_file(identity_path)
            present = {name: read_secret(directory, name) for name in SECRET_FORM}
        except identity.IdentityError as error:
            module.fail_json(msg=str(error))

    result = {"created": created, "adopted": adopted}
    if own is not None:
        result.update(public_key=own.public_key, address=own.address)
    if present["link-secret"] is not None:
        result["link_passwords"] = {key: keys.link_password(present["link-secret"], key) for key in module.params["diallers"]}
    module.exit_json(
        changed=bool(created or loose),
        diff={
            "before_header": directory,
            "after_header": directory,
            "before": "".join(f"{path} readable by others than root\n" for path in loose),
            "after": "".join(f"{path} readable by root alone\n" for path in loose)
            + "".join(f"{path} made\n" for path in created)
            + (f"address {own.address}\n" if own is not None and identity_path in created else ""),
        },
        **result,
    )


if __name__ == "__main__":
    main()
