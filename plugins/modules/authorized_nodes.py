#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: authorized_nodes
short_description: Let the nodes of the mesh log in over the overlay
version_added: "1.0.0"
description:
  - Keeps one line for each node of the mesh in a user's C(~/.ssh/authorized_keys), so that any node can run Ansible on all others.
  - Such a line ends with C(vdloo-mesh:NAME), takes connections from overlay addresses only, and allows no forwarding and no terminal.
  - Lines of the mesh for other nodes are taken away, from the files of all other users of the machine as well. All other lines stay as they
    are, byte for byte.
  - The file is replaced whole or not at all. As it lies where the user may put links, it is read and written with no more rights than that user has.
options:
  user:
    description: Who the nodes log in as. They are let in by this user's file.
    type: str
    required: true
  keys:
    description: The public keys of the nodes by their names, such as C(ssh-ed25519 AAAA...).
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows the lines of the mesh before and after, and no others.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Let the nodes in
  vdloo.mesh.authorized_nodes:
    user: root
    keys:
      vps1: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEdrb3ZsZXIgYW5kIG5vbmUgZWxzZSBidXQgdGhpcw==
"""

RETURN = r"""
files:
  description: The files that were changed, or would be.
  type: list
  elements: str
  returned: success
  sample: [/root/.ssh/authorized_keys]
"""

import os
import pwd

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import authorized_keys, registry


def input_problems(user: str, keys: dict) -> list[str]:
    """List what is wrong with what was handed in."""
    problems = [] if registry.SSH_USER.fullmatch(user) else [f"user: {registry.shown(user)} is no name of a user"]
    for name, key in sorted(keys.items()):
        if not registry.DNS_LABEL.fullmatch(name):
            problems.append(f"keys: {registry.shown(name)} is not the name of a node: use DNS labels")
        elif not isinstance(key, str) or not authorized_keys.KEY.fullmatch(key):
            problems.append(f"keys: that of {name} is no key as ssh-ed25519 AAAA..., without a comment: {registry.shown(key)}")
    return problems


def difference(path: str, before: bytes, after: bytes) -> dict[str, str]:
    """The diff of a file, of the lines of the mesh only."""
    texts = [
        "".join(text.decode("utf-8", "replace") for text in authorized_keys.LINE.findall(content) if authorized_keys.OURS.fullmatch(text))
        for content in (before, after)
    ]
    return {"before_header": path, "after_header": path, "before": texts[0], "after": texts[1]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"user": {"type": "str", "required": True}, "keys": {"type": "dict", "required": True, "no_log": False}},
        supports_check_mode=True,
    )
    user, keys = module.params["user"], module.params["keys"]
    problems = input_problems(user, keys)
    if problems:
        module.fail_json(msg="\n".join(problems))
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        module.fail_json(msg=f"user: there is no user {user} on this machine: log in as one that is there (ansible_user) and run again")
    path = authorized_keys.path_of(account.pw_dir)
    try:
        found = {path: authorized_keys.put(account, keys, module.check_mode)}
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{path} could not be changed as {user}, so the nodes of the mesh are not let in: {error}")
    others, problems = authorized_keys.put_out({os.path.realpath(path)}, module.check_mode)
    found.update(others)
    for problem in problems:
        module.warn(f"{problem}, which should be in the file of {user} only")
    diff = [difference(path, before, after) for path, (before, after) in sorted(found.items()) if before != after]
    module.exit_json(changed=bool(diff), files=[entry["after_header"] for entry in diff], diff=diff)


if __name__ == "__main__":
    main()
