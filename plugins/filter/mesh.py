# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pure functions of module_utils, for playbooks. Each filter is documented in the .yml file of its name beside this one."""

from __future__ import annotations

from ansible_collections.vdloo.mesh.plugins.module_utils import peering
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.plugin_utils.rendering import plain

# The host variables that the checks read; the rest of a host's variables stays untemplated.
READ = (
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "mesh_endpoints",
    "mesh_server_eligible",
    "mesh_site",
    "mesh_zones",
)


def _variables(hostvars, name: str) -> dict:
    variables = hostvars[name]
    return {key: plain(variables[key]) for key in READ if key in variables}


def inventory_problems(names: list[str], hostvars, consul_servers: list[str]) -> list[str]:
    names = plain(names)
    problems = records.inventory_problems({name: _variables(hostvars, name) for name in names})
    strangers = sorted(set(plain(consul_servers)) - set(names))
    if strangers:
        problems.append(f"group consul_servers: {', '.join(strangers)} is not in the group mesh: add it there, or take it out here")
    if not problems:
        problems += peering.problems([records.describe(name, _variables(hostvars, name)) for name in names])
    return problems


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


class FilterModule:
    def filters(self) -> dict:
        return {"inventory_problems": inventory_problems, "peers": peers}
