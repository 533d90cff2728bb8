#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cjdns_config
short_description: Install the configuration of cjdns on a node
version_added: "1.0.0"
description:
  - Adds the peers to a configuration, fills in the private key and the admin password from files that only root can read, and
    installs the result in one step, readable by root alone. So the node's own secrets never leave it.
  - Before that the configuration is checked against what cjdns can read, which is less than JSON, and by C(cjdroute --cleanconf).
  - A configuration that was not written by this module is kept as a backup.
  - It starts and restarts nothing.
options:
  config:
    description:
      - The configuration as JSON text, without the node's own secrets.
      - Numbers are whole, 1 and 0 stand for true and false, texts are printable ASCII without C(") and C(\).
    type: str
    required: true
  peers:
    description: Peers that the node is to dial. Each goes to the UDP interface of its address family.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the peer, for people.
        type: str
        required: true
      address:
        description: Where the peer is dialled, as C(IP:PORT) or C([IPv6]:PORT). Names are not understood by cjdns.
        type: str
        required: true
      public_key:
        description: Public key of the peer.
        type: str
        required: true
      password:
        description:
          - Password that the peer gave to this node.
          - Without it, the one of the peer's entry in the present configuration is kept. A peer for which there is none is not dialled.
        type: str
      login:
        description:
          - Login that the peer gave to this node, which is the C(user) of its entry in the peer's C(authorizedPasswords).
          - Without it the password alone says who dials, and no name is on the wire.
        type: str
  path:
    description: Where the configuration goes.
    type: path
    default: /etc/cjdroute.conf
  identity_directory:
    description: Directory that M(vdloo.mesh.cjdns_identity) filled.
    type: path
    default: /etc/cjdns
  cjdroute:
    description: The cjdroute program that checks the configuration.
    type: path
    default: /usr/local/bin/cjdroute
attributes:
  check_mode:
    support: full
    description: The configuration is checked as far as the node has an identity and a cjdroute.
  diff_mode:
    support: full
    description: Every secret is shown as C((secret\)), or as C((new secret\)) when the present file does not have it.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Install the configuration of cjdns
  vdloo.mesh.cjdns_config:
    config: "{{ lookup('ansible.builtin.template', 'cjdroute.conf.j2') }}"
    peers:
      - name: vps1
        address: 192.0.2.1:4321
        public_key: f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k
        password: "{{ vps1_password }}"

- name: Bring the running cjdns to it
  vdloo.mesh.cjdns_live:
"""

RETURN = r"""
not_dialled:
  description: Names of the peers that were left out, because no password is known for them.
  type: list
  elements: str
  returned: always
restart:
  description:
    - Whether more than peers and passwords is new, so that a running cjdns has to be restarted. Where not, M(vdloo.mesh.cjdns_live) is enough.
  type: bool
  returned: always
backup_file:
  description: Copy of the configuration that was not written by this module.
  type: str
  returned: when there was one
"""

import json
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, identity, live

# Stands in for what is not known before the first run, in check mode.
UNKNOWN = "unknown"


def add_secrets(module: AnsibleModule, config: dict) -> tuple[dict, str | None]:
    """Fill in the node's own secrets; return the configuration and the public key."""
    directory, path = module.params["identity_directory"], module.params["path"]
    try:
        own, in_file = identity.present(os.path.join(directory, "identity.json"), path)
        password = identity.read_text(os.path.join(directory, "admin-password"))
    except identity.IdentityError as error:
        module.fail_json(msg=str(error))
    complete = own is not None and in_file and password is not None
    if not complete and not module.check_mode:
        module.fail_json(msg=f"{directory} does not hold an identity and an admin password: run vdloo.mesh.cjdns_identity first")
    filled = dict(config, admin=dict(config.get("admin", {})))
    filled["admin"]["password"] = password.strip() if password else UNKNOWN
    filled["privateKey"] = own.private_key if own else UNKNOWN
    filled["publicKey"] = own.public_key if own else UNKNOWN
    filled["ipv6"] = own.address if own else UNKNOWN
    return filled, own.public_key if own else None


def parse(module: AnsibleModule, present: dict | None) -> tuple[dict, list[str]]:
    """Read the wished configuration and place the peers in it, or fail with everything that is wrong.

    Returns it with the names of the peers that are left out, as no password is known for them.
    """
    try:
        config = json.loads(module.params["config"])
    except ValueError as error:
        module.fail_json(msg=f"config is not JSON: {error}")
    if not isinstance(config, dict):
        module.fail_json(msg="config is not a JSON object")
    for key in ("privateKey", "publicKey", "ipv6"):
        if key in config:
            module.fail_json(
                msg=f"cjdns_config must not set {key}: the node has an identity of its own, in {module.params['identity_directory']}"
            )
    problems = conf.check_peers(module.params["peers"])
    if not problems:
        peers, unknown = conf.recall_passwords(module.params["peers"], present or {})
        try:
            return conf.place_peers(config, peers), unknown
        except conf.ConfError as error:
            problems = [str(error)]
    fail(module, problems)


def fail(module: AnsibleModule, problems: list[str]) -> None:
    """Fail with a list of problems."""
    module.fail_json(msg="The configuration of cjdns cannot be used:\n" + "\n".join(f"- {problem}" for problem in problems))


def validate(module: AnsibleModule, text: str, secrets: set[str]) -> None:
    """Let the daemon's own parser read the configuration."""
    cjdroute = module.params["cjdroute"]
    if not os.access(cjdroute, os.X_OK):
        if module.check_mode:
            return
        module.fail_json(msg=f"{cjdroute} is not there to check the configuration: install cjdns first, or set cjdroute to its path")
    if len(text) >= conf.CLEANCONF_LIMIT:
        return
    rc, out, err = module.run_command([cjdroute, "--cleanconf"], data=text, binary_data=True)
    if rc != 0:
        reason = conf.mask_text((err.strip() or out.strip())[-600:], secrets)
        module.fail_json(msg=f"{cjdroute} cannot read the configuration, so the present one stays. It says: {reason}")


def parse_present(text: str | None) -> tuple[dict | None, bool]:
    """Read the present file, as strict or as lax as it was written; tell whether this module wrote it.

    The configuration is None when the file cannot be read as one.
    """
    if text is None:
        return {}, True
    try:
        # Old files have comments, and commas before a closing bracket.
        config = json.loads(re.sub(r",(\s*[}\]])", r"\1", conf.strip_comments(text)))
    except ValueError:
        return None, False
    if not isinstance(config, dict):
        return None, False
    return config, conf.dump(config) == text


def describe(config: dict | None, known: set[str]) -> str:
    """The text of a configuration for the diff."""
    if config is None:
        return "(cannot be read, so its secrets cannot be masked)\n"
    return conf.dump(conf.masked(config, known)) if config else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "str", "required": True, "no_log": True},
            "peers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "public_key": {"type": "str", "required": True},
                    "password": {"type": "str", "no_log": True},
                    "login": {"type": "str"},
                },
            },
            "path": {"type": "path", "default": "/etc/cjdroute.conf"},
            "identity_directory": {"type": "path", "default": "/etc/cjdns"},
            "cjdroute": {"type": "path", "default": "/usr/local/bin/cjdroute"},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    present_text = identity.read_text(path)
    present, ours = parse_present(present_text)
    wished, not_dialled = parse(module, present)
    if not_dialled:
        module.warn(f"no password is known yet for {', '.join(not_dialled)}, so these are not dialled: run again when they can be reached")
    config, own_public_key = add_secrets(module, wished)
    problems = conf.check(config, own_public_key)
    if problems:
        fail(module, problems)

    text = conf.dump(config)
    secrets = conf.secrets(config)
    known = conf.secrets(present or {})

    mode = f"{os.stat(path).st_mode & 0o7777:04o}" if present_text is not None else None
    owned = present_text is None or os.stat(path).st_uid == os.geteuid()
    changed = present_text != text or mode != "0600" or not owned
    result = {"not_dialled": not_dialled, "restart": present is None or bool(live.restart_places(present, config))}
    if changed:
        if present_text != text:
            validate(module, text, secrets | known)
        if not module.check_mode:
            if not ours:
                result["backup_file"] = module.backup_local(path)
                os.chmod(result["backup_file"], 0o600)
                module.warn(
                    f"{path} was not written by this role. Its key is kept, its peers and passwords are not: they are in {result['backup_file']}"
                )
            files.write(path, text.encode("ascii"), 0o600)
    module.exit_json(
        changed=changed,
        diff={
            "before_header": f"{path} (mode {mode or 'none'})",
            "after_header": f"{path} (mode 0600)",
            "before": describe(present, known),
            "after": describe(config, known),
        },
        **result,
    )


if __name__ == "__main__":
    main()
