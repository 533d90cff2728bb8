# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pure functions of module_utils, for playbooks. Each filter is documented in the .yml file of its name beside this one."""

from __future__ import annotations

from collections.abc import Mapping

from ansible.errors import AnsibleError, AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bootstrap
from ansible_collections.vdloo.mesh.plugins.plugin_utils.rendering import plain

HERE = ("localhost", "127.0.0.1", "::1")
# How all nodes of an inventory of the operator's are reached is how a newcomer is.
SHARED = (
    "ansible_user",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_private_key_file",
    "ansible_become",
    "ansible_become_method",
    "ansible_become_user",
    "ansible_python_interpreter",
)
# Those of a node's own runs allow the key of the node alone, which a newcomer does not let in yet.
FOR_ANY_KEY = {
    "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o ConnectTimeout=10 -o ServerAliveInterval=10",
    "ansible_ssh_private_key_file": "",
}


def peers(host: dict, name: str, link_passwords: dict[str, dict]) -> dict[str, list]:
    """The plan of one host with the passwords of its links, as the role cjdns takes them. A password that nobody told is left out."""
    host, passwords = plain(host), plain(link_passwords)
    told = {dial["name"]: passwords.get(dial["name"], {}).get(host["public_key"]) for dial in host["dials"]}
    own = passwords.get(name, {})
    return {
        # A listener that this run does not reach tells no password: its dialler keeps the one that it has.
        "dials": [{**dial, "password": told[dial["name"]]} if told[dial["name"]] else dial for dial in host["dials"]],
        "accepts": [{"user": user, "password": own[key]} for user, key in zip(host["accepts"], host["diallers"]) if key in own],
    }


def join_targets(join: str | list, hosts: Mapping, members: list[str], key_file: str | None = None) -> list[dict]:
    """How to reach each newcomer: {"target", and variables of the connection}."""
    texts = [text.strip() for text in (join.split(",") if isinstance(join, str) else map(str, join)) if text.strip()]
    if not texts:
        raise AnsibleFilterError("Say who is to join: -e join=root@203.0.113.9, or with commas for several")
    known = [hosts[name] for name in members]
    from_mesh = any("mesh_role" in host for host in known)
    is_node = from_mesh and any(host.get("ansible_connection") == "local" for host in known)
    if from_mesh:
        # Without it, the way to the nodes behind would be taken.
        shared = {"ansible_ssh_common_args": "", **(FOR_ANY_KEY if is_node else {})}
    else:
        shared = {key: known[0][key] for key in SHARED if known and all(key in host and host[key] == known[0].get(key) for host in known)}
    if key_file:
        shared["ansible_ssh_private_key_file"] = key_file
    found = []
    for text in dict.fromkeys(texts):
        try:
            target = bootstrap.parse_target(text)
        except AnsibleError as error:
            raise AnsibleFilterError(
                f"join: {text!r} is no SSH destination: write user@host, user@host:port or user@[2001:db8::1]:port"
            ) from error
        told = {"ansible_host": target.host, "ansible_user": target.user, "ansible_port": target.port}
        way = {"ansible_connection": "local"} if target.host in HERE else {}
        found.append({"target": text, **shared, **way, **{key: value for key, value in told.items() if value}})
    return found


class FilterModule:
    def filters(self) -> dict:
        return {"join_targets": join_targets, "peers": peers}
