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
  - The check finds what cjdns cannot read. What it can read may still keep it from running, such as a user that does not exist.
    So the file that the new one replaces is kept, and O(state=rolled_back) puts it back.
  - It starts and restarts nothing.
options:
  state:
    description:
      - With V(rolled_back) the file that the last change replaced is put back, if it was kept. The other options say where it is.
    type: str
    choices: [present, rolled_back]
    default: present
  config:
    description:
      - The configuration as JSON text, without the node's own secrets. Required with O(state=present).
      - Numbers are whole, 1 and 0 stand for true and false, texts are printable ASCII without C(") and C(\).
    type: str
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
  previous_path:
    description: Where the replaced file is kept, for root alone.
    type: path
    default: /etc/cjdns/cjdroute.conf.previous
  started_path:
    description: Copy of the configuration that the running daemon has. A file that it was never given does not replace one that is kept.
    type: path
    default: /run/cjdns/started.conf
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

- name: Put the configuration back with which cjdns did run
  vdloo.mesh.cjdns_config:
    state: rolled_back
"""

RETURN = r"""
not_dialled:
  description: Names of the peers that were left out, because no password is known for them.
  type: list
  elements: str
  returned: with O(state=present)
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, identity, live, merge, running

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
    try:
        return merge.wished(config, module.params["peers"], present or {})
    except conf.ConfError as error:
        fail(module, str(error).splitlines())


def fail(module: AnsibleModule, problems: list[str]) -> None:
    """Fail with a list of problems."""
    module.fail_json(msg="The configuration of cjdns cannot be used:\n" + "\n".join(f"- {problem}" for problem in problems))


def validate(module: AnsibleModule, config: dict, secrets: set[str]) -> None:
    """Let the daemon's own parser read the configuration."""
    cjdroute = module.params["cjdroute"]
    if not os.access(cjdroute, os.X_OK):
        if module.check_mode:
            return
        module.fail_json(msg=f"{cjdroute} is not there to check the configuration: install cjdns first, or set cjdroute to its path")
    text = conf.dump(config)
    if len(text) >= conf.CLEANCONF_LIMIT:
        # Of its peers and passwords all is known that the parser could say.
        text = conf.dump(conf.alone(config))
    if len(text) >= conf.CLEANCONF_LIMIT:
        return
    rc, out, err = module.run_command([cjdroute, "--cleanconf"], data=text, binary_data=True)
    if rc != 0:
        reason = conf.mask_text((err.strip() or out.strip())[-600:], secrets)
        module.fail_json(msg=f"{cjdroute} cannot read the configuration, so the present one stays. It says: {reason}")


def keep(params: dict, text: str) -> None:
    """Keep the file that is about to be replaced, unless one is kept and the running daemon was never given this one."""
    started = running.load(params["started_path"]).text
    if started in (None, text) or not os.path.exists(params["previous_path"]):
        files.write(params["previous_path"], text.encode(), 0o600)


def roll_back(module: AnsibleModule) -> dict:
    """Put the kept file back; returns the result of the module."""
    path, previous_path = module.params["path"], module.params["previous_path"]
    try:
        previous, replaced = identity.read_text(previous_path), identity.read_text(path)
    except identity.IdentityError as error:
        module.fail_json(msg=str(error))
    if previous is None:
        return {"changed": False, "restart": False}
    if not module.check_mode:
        files.write(path, previous.encode(), 0o600)
        os.unlink(previous_path)
    before, after = merge.parse_present(replaced)[0], merge.parse_present(previous)[0]
    return {"changed": True, "restart": True, "diff": show(path, None, before, after)}


def describe(config: dict | None, known: set[str]) -> str:
    """The text of a configuration for the diff."""
    if config is None:
        return "(cannot be read, so its secrets cannot be masked)\n"
    return conf.dump(conf.masked(config, known)) if config else ""


def show(path: str, mode: str | None, before: dict | None, after: dict | None) -> dict:
    """The difference of two configurations, without their secrets."""
    known = conf.secrets(before or {})
    return {
        "before_header": f"{path} (mode {mode})" if mode else path,
        "after_header": f"{path} (mode 0600)",
        "before": describe(before, known),
        "after": describe(after, known),
    }


def install(module: AnsibleModule) -> dict:
    """Write the configuration if it differs; returns the result of the module."""
    path = module.params["path"]
    present_text = identity.read_text(path)
    present, ours = merge.parse_present(present_text)
    wished, not_dialled = parse(module, present)
    if not_dialled:
        module.warn(f"no password is known yet for {', '.join(not_dialled)}, so these are not dialled: run again when they can be reached")
    config, own_public_key = add_secrets(module, wished)
    problems = conf.check(config, own_public_key)
    if problems:
        fail(module, problems)

    text = conf.dump(config)
    mode = f"{os.stat(path).st_mode & 0o7777:04o}" if present_text is not None else "none"
    owned = present_text is None or os.stat(path).st_uid == os.geteuid()
    changed = present_text != text or mode != "0600" or not owned
    result = {"not_dialled": not_dialled, "restart": present is None or bool(live.restart_places(present, config))}
    if changed:
        if present_text != text:
            validate(module, config, conf.secrets(config) | conf.secrets(present or {}))
        if not module.check_mode:
            if not ours:
                result["backup_file"] = module.backup_local(path)
                os.chmod(result["backup_file"], 0o600)
                module.warn(
                    f"{path} was not written by this role. Its key is kept, its peers and passwords are not: they are in {result['backup_file']}"
                )
            if present_text not in (None, text):
                keep(module.params, present_text)
            files.write(path, text.encode("ascii"), 0o600)
    return dict(result, changed=changed, diff=show(path, mode, present, config))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "rolled_back"], "default": "present"},
            "config": {"type": "str", "no_log": True},
            "peers": conf.PEERS_ARGUMENT,
            "path": {"type": "path", "default": "/etc/cjdroute.conf"},
            "identity_directory": {"type": "path", "default": "/etc/cjdns"},
            "cjdroute": {"type": "path", "default": "/usr/local/bin/cjdroute"},
            "previous_path": {"type": "path", "default": "/etc/cjdns/cjdroute.conf.previous"},
            "started_path": {"type": "path", "default": "/run/cjdns/started.conf"},
        },
        required_if=[("state", "present", ["config"])],
        supports_check_mode=True,
    )
    result = roll_back(module) if module.params["state"] == "rolled_back" else install(module)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
