# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh
short_description: The nodes of a mesh, live from CJDNS, Consul and the registry
version_added: "1.0.0"
author:
  - vdloo.mesh contributors (@vdloo)
description:
  - Asks the CJDNS admin interface, the Consul agent and the registry file of the machine that it runs on, all at the same time,
    and merges what they say into one inventory.
  - From outside the mesh it asks the first of O(bootstrap) that answers, over SSH, and reaches the overlay addresses through that node.
  - A source that does not answer is a warning. When none is left, the inventory fails and says what was tried.
  - The group V(mesh) has the nodes that answer, V(mesh_unreachable) all others, so that a play on V(mesh) never waits for the dead.
  - Consul decides V(mesh_status). A node answers when Consul says that it is alive, or when the node that was asked has a live CJDNS link to it.
    Where the two disagree, V(mesh_conflicts) says so. Without Consul, each node of the registry answers whose sshd takes a connection.
    A node that has left or was revoked is never in V(mesh).
  - The settings that the machine keeps are variables of the group V(mesh), and of the hosts where they are a host's own. Your own C(group_vars) and
    C(host_vars) beside the inventory file count more. A run of C(site.yml) makes what you set there a setting of the mesh.
  - What comes from the network is checked and is never a template. What cannot be true is left out with a warning that names it.
  - The inventory file is called C(mesh.yml) or C(mesh.yaml), or ends in C(.mesh.yml) or C(.mesh.yaml).
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [vdloo.mesh.mesh]
  bootstrap:
    description:
      - Nodes to ask from outside the mesh, as C(user@host), C(user@host:port) or C(user@[2001:db8::1]:port). The first that answers is taken.
      - With it, the machine that Ansible runs on is not asked, and the addresses and files of the other options are those on the node.
      - The user is best root, or may use sudo without a password; another one cannot read the registry file, which is then a warning.
    type: list
    elements: str
    default: []
    env:
      - name: VDLOO_MESH_BOOTSTRAP
    ini:
      - section: vdloo_mesh_inventory
        key: bootstrap
  bootstrap_ssh_args:
    description: Options of ssh for O(bootstrap), in addition to those of your SSH configuration, such as C(-i ~/.ssh/mesh).
    type: str
    default: ""
    env:
      - name: VDLOO_MESH_BOOTSTRAP_SSH_ARGS
    ini:
      - section: vdloo_mesh_inventory
        key: bootstrap_ssh_args
  bootstrap_timeout:
    description: Seconds for each node of O(bootstrap), with all that it asks.
    type: float
    default: 15
    env:
      - name: VDLOO_MESH_BOOTSTRAP_TIMEOUT
    ini:
      - section: vdloo_mesh_inventory
        key: bootstrap_timeout
  sources:
    description: Which sources to ask.
    type: list
    elements: str
    choices: [cjdns, consul, registry]
    default: [cjdns, consul, registry]
    env:
      - name: VDLOO_MESH_SOURCES
    ini:
      - section: vdloo_mesh_inventory
        key: sources
  timeout:
    description: Seconds for each source. They are asked at the same time.
    type: float
    default: 5
    env:
      - name: VDLOO_MESH_TIMEOUT
    ini:
      - section: vdloo_mesh_inventory
        key: timeout
  cjdns_addr:
    description: Address of the CJDNS admin interface, C(IP:PORT). Nothing that needs its password is asked.
    type: str
    default: 127.0.0.1:11234
    env:
      - name: VDLOO_MESH_CJDNS_ADDR
    ini:
      - section: vdloo_mesh_inventory
        key: cjdns_addr
  consul_addr:
    description: Address of the Consul agent, such as V(127.0.0.1:8500), V(https://[::1]:8501) or V(unix:///run/consul.sock).
    type: str
    default: 127.0.0.1:8500
    env:
      - name: CONSUL_HTTP_ADDR
    ini:
      - section: vdloo_mesh_inventory
        key: consul_addr
  consul_token:
    description: ACL token for Consul. May be a template, such as a lookup in a vault.
    type: str
    default: ""
    env:
      - name: CONSUL_HTTP_TOKEN
    ini:
      - section: vdloo_mesh_inventory
        key: consul_token
  consul_ca_file:
    description: Certificates that the agent's is checked against, with an C(https) address.
    type: path
    env:
      - name: CONSUL_CACERT
    ini:
      - section: vdloo_mesh_inventory
        key: consul_ca_file
  consul_cert_file:
    description: Client certificate, for an agent that wants one.
    type: path
    env:
      - name: CONSUL_CLIENT_CERT
    ini:
      - section: vdloo_mesh_inventory
        key: consul_cert_file
  consul_key_file:
    description: Key of the client certificate.
    type: path
    env:
      - name: CONSUL_CLIENT_KEY
    ini:
      - section: vdloo_mesh_inventory
        key: consul_key_file
  consul_verify:
    description: Whether to check the agent's certificate.
    type: bool
    default: true
    env:
      - name: CONSUL_HTTP_SSL_VERIFY
    ini:
      - section: vdloo_mesh_inventory
        key: consul_verify
  registry_file:
    description: Where a node keeps the registry. Only root can read it.
    type: str
    default: /var/lib/vdloo-mesh/registry.json
    env:
      - name: VDLOO_MESH_REGISTRY_FILE
    ini:
      - section: vdloo_mesh_inventory
        key: registry_file
  settings_file:
    description:
      - Where a node keeps the settings of the mesh. Only root can read it. It is read together with O(registry_file).
      - The copy in Consul is not used, as every process on a node may write there.
    type: str
    default: /var/lib/vdloo-mesh/settings.json
    env:
      - name: VDLOO_MESH_SETTINGS_FILE
    ini:
      - section: vdloo_mesh_inventory
        key: settings_file
  node:
    description:
      - Name of the node that this machine is. It is reached without SSH, and is in V(mesh) whatever state its daemons are in, unless it has left the mesh.
      - With it, ssh connects to no node whose host key the registry does not know.
    type: str
    default: ""
    env:
      - name: VDLOO_MESH_NODE
    ini:
      - section: vdloo_mesh_inventory
        key: node
  known_hosts:
    description:
      - File to keep the nodes' SSH host keys in, out of the registry. It is handed to ssh beside your own known hosts, so that a node is known
        before the first connection.
      - The plugin owns the file and replaces it. By default each inventory file has one of its own in C(~/.ansible/vdloo-mesh).
    type: path
    env:
      - name: VDLOO_MESH_KNOWN_HOSTS
    ini:
      - section: vdloo_mesh_inventory
        key: known_hosts
"""

EXAMPLES = r"""
# On a node of the mesh this is all:
plugin: vdloo.mesh.mesh

---
# From a laptop outside of it:
plugin: vdloo.mesh.mesh
bootstrap:
  - root@192.0.2.10
  - admin@vps2.example.org:2222

---
# Groups by site and architecture, a group of one's own, and a cache for five minutes:
plugin: vdloo.mesh.mesh
keyed_groups:
  - {key: mesh_site, prefix: site}
  - {key: mesh_arch, prefix: arch}
groups:
  lonely: mesh_peers | length < 2
compose:
  ansible_user: "'admin'"
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/ansible
cache_timeout: 300

# The variables that a host has:
#
# ansible_host: fc12:3456::1         # the overlay address
# ansible_user: root                 # as the last run logged in there
# ansible_port: 2222                 # only where it is not 22
# ansible_become: true               # only where the user is not root
# ansible_connection: local          # only for the option node
# mesh_address: fc12:3456::1
# mesh_public_key: 0123...k
# mesh_status: alive                 # alive, failed, left or unknown: Consul's word
# mesh_consul_status: alive          # the same, "" when Consul does not answer or know the node
# mesh_cjdns_state: ESTABLISHED      # the link between the node that was asked and this one, "" when there is none
# mesh_conflicts: []                 # such as ["Consul says failed, cjdns says ESTABLISHED"]
# mesh_role: server                  # server, client or ""
# mesh_site: home
# mesh_zones: [home]
# mesh_endpoints: [{address: "192.168.1.5:4321", zone: home}]
# mesh_arch: aarch64
# mesh_peers: [vps1, vps2]           # live links, as far as the node that was asked sees them
# mesh_services: {web: passing}      # passing, warning or critical
# mesh_sources: [cjdns, consul, kv, registry]   # who knows the node; kv is the registry in Consul, registry the file
# mesh_state: member                 # member, left, revoked, or unknown without a registry
# mesh_server_eligible: true         # whether it may be a Consul server
# mesh_converged: "2026-01-02T03:04:05Z"        # the last run that converged it, "" when not known
#
# Besides, the settings of the mesh, such as h2o_routes, and mesh_settings, which tells them from others.
#
# The groups: mesh, mesh_unreachable; and, of the nodes in mesh, consul_servers, consul_clients and service_<name> for each service
# that is registered there (with _ for characters that a group's name cannot have).
"""

import hashlib
import json
import re
import shlex
import typing

from ansible.errors import AnsibleBrokenConditionalError, AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.vdloo.mesh.plugins.module_utils import collector, digest, settings
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.module_utils.consul.client import split_addr
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bootstrap, known_hosts, view

# Raised when what is kept in the cache changes its shape.
CACHE_FORMAT = 2
GROUPS = ("mesh", "mesh_unreachable", "consul_servers", "consul_clients")
# What the plugin keeps of a node for itself.
PRIVATE = ("name", "reachable", "ssh")
ADVICE = (
    "On a node, see that cjdns and consul run (systemctl status cjdns consul), and be root to read the registry. From outside the mesh, name "
    "nodes in bootstrap. For a mesh that does not exist yet, hand in the file with your first nodes: -i inventory/hosts.yml"
)

ADVICE_CONDITION = "write a comparison, such as `mesh_services | length > 0`"


class Snapshot(typing.TypedDict):
    """What is cached: the nodes before any option shapes them."""

    format: int
    asked: str  # digest of what was asked whom: an answer to another question is none
    nodes: list[view.Node]
    settings: dict  # the record that the machine keeps, {} without one
    via: str  # the bootstrap node that told, "" when this machine did


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "vdloo.mesh.mesh"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith(("mesh.yml", "mesh.yaml"))

    def parse(self, inventory, loader, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        request = self._request()
        snapshot = self._cached(path, cache, request)
        self._populate(snapshot["nodes"], snapshot["settings"])
        self._connect(snapshot, path)
        self._construct(snapshot["nodes"])

    def _request(self) -> dict:
        """The collector's request, out of the options. Raises AnsibleParserError for one that cannot be right."""
        sources = self.get_option("sources")
        for option in ("timeout", "bootstrap_timeout"):
            if self.get_option(option) <= 0:
                raise AnsibleParserError(f"{option}: {self.get_option(option):g} is no time to wait: write seconds, above 0")
        request: dict = {"timeout": self.get_option("timeout")}
        if "cjdns" in sources:
            match = re.fullmatch(
                r"(?:\[(?P<v6>[0-9A-Fa-f:]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})", self.get_option("cjdns_addr")
            )
            if not match or not 0 < int(match["port"]) < 65536:
                raise AnsibleParserError(f"cjdns_addr: {self.get_option('cjdns_addr')!r} is no address: write 127.0.0.1:11234")
            request["cjdns"] = {"host": match["v6"] or match["host"], "port": int(match["port"])}
        if "consul" in sources:
            try:
                split_addr(self.get_option("consul_addr"))
            except ValueError as error:
                raise AnsibleParserError(f"consul_addr: {error}") from error
            token = self.get_option("consul_token")
            if self.templar.is_template(token):
                token = self.templar.template(token)
            request["consul"] = {
                "addr": self.get_option("consul_addr"),
                "token": str(token),
                **{name: self.get_option(f"consul_{name}") or "" for name in ("ca_file", "cert_file", "key_file")},
                "verify": self.get_option("consul_verify"),
            }
        if "registry" in sources:
            request["registry_file"] = self.get_option("registry_file")
            request["settings_file"] = self.get_option("settings_file")
        node = self.get_option("node")
        # Whoever repairs the mesh has to reach a node whose Consul does not run.
        request["knock"] = bool(node)
        if node and (not records.DNS_LABEL.fullmatch(node) or node in records.RESERVED_NAMES):
            raise AnsibleParserError(f"node: {node!r} is not the name of a node: write the one that this machine has in the mesh")
        if node and self.get_option("bootstrap"):
            raise AnsibleParserError("node and bootstrap: this machine is a node, or it asks one from outside: leave one of them out")
        if not sources:
            raise AnsibleParserError("sources: it is empty, so there is nobody to ask: leave it out, or name cjdns, consul or registry")
        return request

    def _cached(self, path: str, cache: bool, request: dict) -> Snapshot:
        """The snapshot out of the cache where the user wants one and it is there; else a new one, which is then kept."""
        whom = [self.get_option("bootstrap"), self.get_option("node"), {**request, "consul": {**request.get("consul", {}), "token": ""}}]
        asked = hashlib.sha256(json.dumps(whom, sort_keys=True).encode()).hexdigest()
        self.load_cache_plugin()
        wanted = self.get_option("cache")
        key = self.get_cache_key(path)
        if wanted and cache:
            kept = self._cache.get(key)
            if isinstance(kept, dict) and (kept.get("format"), kept.get("asked")) == (CACHE_FORMAT, asked):
                return typing.cast(Snapshot, kept)
        snapshot = self._gather(request)
        snapshot["asked"] = asked
        if wanted:
            self._cache[key] = snapshot
        return snapshot

    def _gather(self, request: dict) -> Snapshot:
        """Ask the sources, here or on a bootstrap node, and merge what they say. Raises AnsibleParserError when nobody tells of a node."""
        hosts, via = self.get_option("bootstrap"), ""
        if hosts:
            ssh_args, timeout = self.get_option("bootstrap_ssh_args"), self.get_option("bootstrap_timeout")
            try:
                reply, via = bootstrap.run(hosts, request, ssh_args, timeout)
            except AnsibleError as error:
                raise AnsibleParserError(f"{error}. See that one of them is up and that ssh to it works without a question") from error
        else:
            reply = collector.collect(request)
        nodes, warnings = view.merge(reply["answers"])
        self._add_own(nodes)
        kept = reply["answers"].get("settings", {})
        problem = settings.problem(kept)
        if problem:
            warnings.append(f"the settings were left out: {problem}")
        where = f" (on {via})" if via else ""
        failures = self._failures(request, reply["errors"])
        if not nodes:
            told = [f"{source}: {reason}" for source, reason in failures.items()]
            told += [f"{source}: it knows of no node" for source in ("cjdns", "consul", "kv", "registry") if source in reply["answers"]]
            raise AnsibleParserError(f"nobody tells of any node of the mesh{where}. Tried {'; '.join([*told, *warnings])}. {ADVICE}")
        for source, reason in failures.items():
            self.display.warning(f"the inventory of the mesh does without {source}{where}: {reason}")
        for warning in [*reply["warnings"], *warnings]:
            self.display.warning(f"inventory of the mesh{where}: {warning}")
        return Snapshot(format=CACHE_FORMAT, asked="", nodes=nodes, settings={} if problem else kept, via=via)

    def _add_own(self, nodes: list[view.Node]) -> None:
        """The node that this machine is needs no source to be found, and no daemon to be reached."""
        name = self.get_option("node")
        if not name:
            return
        own = next((node for node in nodes if node["name"] == name), None)
        if own is None:
            own = view.new_node(name, "")
            nodes.append(own)
            nodes.sort(key=lambda node: node["name"])
        if own["state"] not in ("left", "revoked"):
            own["reachable"] = True

    @staticmethod
    def _failures(request: dict, errors: dict[str, str]) -> dict[str, str]:
        """The sources that did not answer and why, in the user's words: one line when Consul is gone as a whole."""
        names = {
            "cjdns": "cjdns",
            "consul": "Consul",
            "kv": "the registry in Consul",
            "services": "Consul's services",
            "registry": "the registry file",
            "settings": "the settings file",
        }
        shown = {names[source]: str(reason) for source, reason in errors.items() if source in names}
        if "consul" in errors:
            shown.pop(names["kv"], None)
            shown.pop(names["services"], None)
        if "registry" in errors:
            # Both are for the same eyes.
            shown.pop(names["settings"], None)
        return shown

    def _populate(self, nodes: list[view.Node], kept: dict) -> None:
        for group in GROUPS:
            self.inventory.add_group(group)
        # As a group's variables, so that the user's own group_vars count more.
        for variable, value in {**settings.for_mesh(kept), "mesh_settings": digest.of(kept)}.items():
            self.inventory.set_variable("mesh", variable, value)
        services = {service for node in nodes for service in node["services"]}
        group_of = {service: "service_" + re.sub(r"[^A-Za-z0-9_]", "_", service) for service in services}
        for group in sorted(set(group_of.values())):
            self.inventory.add_group(group)
        for node in nodes:
            name = node["name"]
            self.inventory.add_host(name, group="mesh" if node["reachable"] else "mesh_unreachable")
            if node["reachable"]:
                if node["role"]:
                    self.inventory.add_child(f"consul_{node['role']}s", name)
                for service in node["services"]:
                    self.inventory.add_child(group_of[service], name)
            for variable, value in {**self._variables(node), **settings.of_host(kept, name)}.items():
                self.inventory.set_variable(name, variable, value)

    def _variables(self, node: view.Node) -> dict[str, typing.Any]:
        variables = {f"mesh_{field}": value for field, value in node.items() if field not in PRIVATE}
        if node["address"]:
            variables["ansible_host"] = node["address"]
        if node["name"] == self.get_option("node"):
            variables["ansible_connection"] = "local"
        elif node["ssh"]:
            variables["ansible_user"] = node["ssh"]["user"]
            if node["ssh"]["user"] != "root":
                variables["ansible_become"] = True
            if node["ssh"]["port"] != 22:
                variables["ansible_port"] = node["ssh"]["port"]
        return variables

    def _connect(self, snapshot: Snapshot, path: str) -> None:
        """Tell ssh the host keys and the way in. As a group's variables, so that the user's own group_vars count more."""
        file = known_hosts.path_for(path, self.get_option("known_hosts"))
        try:
            known_hosts.write(file, snapshot["nodes"])
        except OSError as error:
            self.display.warning(f"the SSH host keys of the mesh could not be kept ({error}): ssh asks about hosts that it does not know")
        arguments = "-o " + shlex.quote(f'GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts "{file}"')
        if self.get_option("node"):
            arguments += " -o StrictHostKeyChecking=yes"
        if snapshot["via"]:
            target = bootstrap.parse_target(snapshot["via"])
            arguments += " " + bootstrap.proxy_argument(target, self.get_option("bootstrap_ssh_args"))
        for group in ("mesh", "mesh_unreachable"):
            self.inventory.set_variable(group, "ansible_ssh_common_args", arguments)

    def _construct(self, nodes: list[view.Node]) -> None:
        """The user's compose, groups and keyed_groups. Options are read once: for each host it would cost more than the rest."""
        compose, groups, keyed = (self.get_option(option) for option in ("compose", "groups", "keyed_groups"))
        strict = self.get_option("strict")
        if not (compose or groups or keyed):
            return
        warned: set[str] = set()
        for node in nodes:
            name = node["name"]
            variables = self.inventory.get_host(name).get_vars()
            if compose:
                self._set_composite_vars(compose, variables, name, strict=strict)
                variables = self.inventory.get_host(name).get_vars()
            for group, expression in (groups or {}).items():
                try:
                    self._add_host_to_composed_groups({group: expression}, variables, name, strict=True, fetch_hostvars=False)
                except AnsibleParserError as error:
                    if strict:
                        raise
                    # Ansible itself passes over it, as over a variable that a host lacks; but no host would ever be in this group.
                    if isinstance(error.__context__, AnsibleBrokenConditionalError) and group not in warned:
                        warned.add(group)
                        self.display.warning(
                            f"groups: the group {group} stays empty, as {expression!r} gives neither true nor false: {ADVICE_CONDITION}"
                        )
            if keyed:
                self._add_host_to_keyed_groups(keyed, variables, name, strict=strict, fetch_hostvars=False)
