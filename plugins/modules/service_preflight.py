#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: service_preflight
short_description: Look whether a service can be published on a node
version_added: "1.0.0"
description:
  - Finds the Consul agent that the role consul has set up, and what it knows of the service. It needs no leader and no other node.
  - Fails, with all reasons at once, where there is no such agent, where somebody else publishes the same service, or where the agent
    does not run the script of a check.
options:
  name:
    description: Name of the service.
    type: str
    required: true
  port:
    description: Its port. Another definition of the same name and port is refused.
    type: int
    default: 0
  mark:
    description: The mark in the definition that the agent should have; empty when it should have none.
    type: str
    default: ""
  script:
    description: Whether the service is checked by a script.
    type: bool
    default: false
  host:
    description: Name of the node, for the messages.
    type: str
    required: true
  state_dir:
    description: Where the records of the manifests are.
    type: path
    default: /var/lib/vdloo-mesh
attributes:
  check_mode:
    support: full
    description: The module only looks. That Consul is not set up yet is no failure then, as a run before may be the one to do that.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Look at the node
  vdloo.mesh.service_preflight:
    name: web
    port: 8080
    host: "{{ inventory_hostname }}"
  register: look
"""

RETURN = r"""
config_dir:
  description: The folder with the agent's configuration.
  type: str
  returned: success
  sample: /etc/consul.d
binary:
  description: The agent's program.
  type: str
  returned: success
  sample: /usr/local/bin/consul
http_port:
  description: Port of the agent's API on the loopback.
  type: int
  returned: success
running:
  description: Whether systemd runs the agent.
  type: bool
  returned: success
problem:
  description: Why the agent could not be asked; empty when it could.
  type: str
  returned: success
as_wanted:
  description: Whether the agent has the definition with O(mark), or no such service where O(mark) is empty.
  type: bool
  returned: success
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client, services, unit

# Where the role consul would have them, for a dry run before it has run.
DEFAULTS = {"config_dir": "/etc/consul.d", "binary": "/usr/local/bin/consul", "http_port": client.DEFAULT_PORT}
MAIN_FILE = "consul.json"


def installed(state_dir: str) -> dict | None:
    """Where the role consul has put things: {config_dir, binary, http_port}; None when it has not run here."""
    record = manifest.load("consul", os.path.join(state_dir, "manifests"))
    found = [path for path in (record or {}).get("files", {}) if os.path.basename(path) == MAIN_FILE]
    if not record or not found:
        return None
    return {
        "config_dir": os.path.dirname(found[0]),
        "binary": next(iter(record["programs"]), DEFAULTS["binary"]),
        "http_port": int(record["facts"].get("http_port") or client.DEFAULT_PORT),
    }


def read_files(config_dir: str) -> dict[str, dict]:
    """The JSON files of the agent's configuration, by path. What is no JSON object is left to Consul to judge."""
    found = {}
    for name in sorted(os.listdir(config_dir)) if os.path.isdir(config_dir) else []:
        try:
            with open(os.path.join(config_dir, name), encoding="utf-8") as stream:
                content = json.load(stream) if name.endswith(".json") else None
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            found[os.path.join(config_dir, name)] = content
    return found


def scripted_files(own_file: str, files: dict[str, dict]) -> list[str]:
    """The files of others that have a check with a script."""
    return [path for path, content in files.items() if path != own_file and services.has_scripts(content)]


def problems(options: dict, own_file: str, files: dict[str, dict], known: dict[str, dict], runs_scripts: bool) -> list[str]:
    """Say what speaks against the service. `known` are those of the agent, by id."""
    name, port = options["name"], options["port"]
    scripted = scripted_files(own_file, files)
    found = []
    if own_file in files and not services.is_ours(files[own_file], name):
        found.append(f"{own_file} is there, and this role has not written it: move it away")
    elsewhere = [(path, entry) for path, content in files.items() if path != own_file for entry in services.defined(content)]
    clashing = [(path, entry) for path, entry in elsewhere if services.clashes(entry, name, port)]
    found += [
        f"{path} defines the service {entry['name']} as well (id {entry['id']}, port {entry['port']}): take it out there, or choose another service_name"
        for path, entry in clashing
    ]
    told = {entry["id"] for _path, entry in clashing}
    found += [
        f"the agent has the service {name} on port {port} already, under the id {entry['id']}: remove that registration"
        f" (consul services deregister -id={entry['id']}), or choose another service_name"
        for entry in known.values()
        if entry["id"] not in {name, *told} and options["mark"] and services.clashes(entry, name, port)
    ]
    if options["script"] and not runs_scripts:
        found.append(
            "service_check has a script, and the agent runs none: choose http, tcp or grpc, or let the agent run scripts with"
            " consul_config: {enable_local_script_checks: true} for the role consul (and site.yml)"
        )
    if scripted and not runs_scripts:
        # Consul finds such a file valid, and then drops all of its services on the reload.
        found.append(
            f"{', '.join(scripted)} has a check with a script, and the agent runs none: with its next reload it would lose all services of the node;"
            " take the check out there"
        )
    return found


def look(module: AnsibleModule) -> dict:
    options = module.params
    places = installed(options["state_dir"])
    if places is None and not module.check_mode:
        module.fail_json(msg=f"Consul is not set up on this node: make it a node of the mesh with site.yml first (host {options['host']})")
    places = places or DEFAULTS
    files = read_files(places["config_dir"])
    problem, known = "", {}
    own_file = os.path.join(places["config_dir"], f"service-{options['name']}.json")
    runs_scripts = any(services.runs_scripts(content) for content in files.values())
    try:
        agent = client.Client(f"http://127.0.0.1:{places['http_port']}")
        known = services.registered(agent)
        if options["script"] or scripted_files(own_file, files):
            runs_scripts = services.agent_runs_scripts(agent)
    except client.ClientError as error:
        problem = str(error)
    found = problems(options, own_file, files, known, runs_scripts)
    if found:
        module.fail_json(msg="\n".join(f"{text} (host {options['host']})" for text in found))
    return {
        **places,
        "running": unit.show(module.run_command, "consul.service").get("ActiveState") in ("active", "activating", "reloading"),
        "problem": problem,
        "as_wanted": not problem and services.has(known, options["name"], options["mark"]),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "port": {"type": "int", "default": 0},
            "mark": {"type": "str", "default": ""},
            "script": {"type": "bool", "default": False},
            "host": {"type": "str", "required": True},
            "state_dir": {"type": "path", "default": "/var/lib/vdloo-mesh"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **look(module))


if __name__ == "__main__":
    main()
