# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pure functions of module_utils, for playbooks. Each filter is documented in the .yml file of its name beside this one."""

from __future__ import annotations

from datetime import datetime, timezone

from ansible.errors import AnsibleFilterError
from ansible.utils.display import Display
from ansible_collections.vdloo.mesh.plugins.module_utils import peering, quorum
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records

display = Display()

# The host variables that the checks read; the rest of a host's variables stays untemplated.
READ = (
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "mesh_endpoints",
    "mesh_site",
    "mesh_zones",
    "node_access",
)


def _plain(value):
    """Copy a value without Ansible's lazy and tagged types, which compare and serialise in ways of their own."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    return value


def _variables(hostvars, name: str) -> dict:
    variables = hostvars[name]
    return {key: _plain(variables[key]) for key in READ if key in variables}


def _sound(known: dict) -> dict:
    """Leave out the records that are none: one damaged file must not keep the mesh from being repaired from the others."""
    sound, problems = records.sift(known, {})
    for name, problem in problems.items():
        display.warning(f"the registry of a node holds a record under {records.shown(name)} that was left out: {problem}")
    return sound


def _roles(names: list[str], hostvars) -> dict[str, str]:
    return {name: str(hostvars[name].get("mesh_role", "")) for name in names}


def servers(names: list[str], consul_servers: list[str], hostvars) -> list[str]:
    names = _plain(names)
    return quorum.servers(names, _plain(consul_servers), _roles(names, hostvars))


def inventory_problems(names: list[str], hostvars, consul_servers: list[str]) -> list[str]:
    names = _plain(names)
    problems = records.inventory_problems({name: _variables(hostvars, name) for name in names})
    problems += quorum.problems(names, _plain(consul_servers), _roles(names, hostvars))
    if not problems:
        problems += peering.problems([records.describe(name, _variables(hostvars, name)) for name in names])
    return problems


def registry(known: list[dict], names: list[str], hostvars, overlays: dict[str, dict], servers: list[str]) -> dict[str, dict]:
    merged = records.merge(*(_sound(one) for one in _plain(known)))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    overlays = _plain(overlays)
    for name in sorted(_plain(names)):
        variables = _variables(hostvars, name)
        told = {
            **records.describe(name, variables),
            **records.access(variables, merged.get(name)),
            "public_key": overlays[name]["public_key"],
            "address": overlays[name]["address"],
            "overlay": "cjdns",
            "server_eligible": name in _plain(servers),
            "state": "member",
        }
        merged = records.update(merged, told, now)
    problems = records.identity_problems(merged)
    if problems:
        raise AnsibleFilterError("\n".join(problems))
    return merged


def peers(nodes: dict[str, dict], name: str, link_passwords: dict[str, dict] | None = None) -> dict[str, list]:
    nodes, passwords = _plain(nodes), _plain(link_passwords or {})
    members = [record for record in nodes.values() if record["state"] == "member"]
    found: dict[str, list] = {"dials": [], "accepts": [], "diallers": []}
    for link in peering.links(members):
        dialler, listener = nodes[link["dialler"]], nodes[link["listener"]]
        password = passwords.get(listener["name"], {}).get(dialler["public_key"])
        if dialler["name"] == name:
            dial = {"name": listener["name"], "address": link["address"], "public_key": listener["public_key"], "login": name}
            # A listener that this run does not reach tells no password: its dialler keeps the one that it has.
            found["dials"].append({**dial, "password": password} if password else dial)
        if listener["name"] == name:
            found["diallers"].append(dialler["public_key"])
            if password:
                found["accepts"].append({"user": dialler["name"], "password": password})
    return found


class FilterModule:
    def filters(self) -> dict:
        return {"inventory_problems": inventory_problems, "servers": servers, "registry": registry, "peers": peers}
