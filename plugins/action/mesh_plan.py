# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes the plan of a run on the controller, without a remote call. The documentation is in the module of this name."""

from __future__ import annotations

import typing
from datetime import datetime, timezone

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.vdloo.mesh.plugins.module_utils import manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.plugin_utils import memory, plan, rendering

# The host variables that describe a node; the rest of a host's variables stays untemplated.
READ = (
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "mesh_endpoints",
    "mesh_server_eligible",
    "mesh_site",
    "mesh_zones",
)
# What is large, and is no part of any template.
LEFT_OUT = ("mesh_look", "mesh_plan", "mesh_first_plan")
# What of a role the plan compares besides its manifest.
EXTRAS = {
    "node": {"packages": "node_packages"},
    "cjdns": {"config": "__cjdns_public_config"},
    "dnsmasq": {
        "managed": "dnsmasq_resolver_managed",
        "addresses": "dnsmasq_listen_addresses",
        "options": "dnsmasq_resolv_options",
        "probe_names": "dnsmasq_probe_names",
        "domain": "dnsmasq_consul_domain",
        "networks": "dnsmasq_reverse_networks",
    },
}

display = Display()


class ActionModule(ActionBase):
    """One call for all hosts: use it with run_once."""

    _supports_check_mode = True
    _supports_diff = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec({"look": {"type": "str", "required": True}, "final": {"type": "bool"}})
        roles = rendering.Roles(self._loader)
        hosts: dict[str, rendering.Host] = {}
        looks: dict[str, dict] = {}
        groups = rendering.plain({name: task_vars["groups"].get(name) or [] for name in ("mesh", "consul_servers")})
        for name in groups["mesh"]:
            raw = task_vars["hostvars"].raw_get(name)
            hosts[name] = rendering.Host(roles, raw, {arguments["look"], *LEFT_OUT})
            if name in task_vars["ansible_play_hosts"]:
                looks[name] = rendering.plain(raw[arguments["look"]])
        asked = self._asked(hosts, groups["consul_servers"])
        rendered = memory.Memory(memory.default_path())
        try:
            made = plan.make(
                looks,
                asked,
                lambda name, role, given, facts: render(hosts[name], role, given, facts, rendered),
                datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                # A dry run makes no keys: there is nothing to wait for.
                final=arguments["final"] or self._task.check_mode,
            )
        except (plan.PlanError, ValueError) as error:
            raise AnsibleActionFail(str(error)) from error
        rendered.keep()
        for warning in made.pop("warnings"):
            display.warning(warning)
        return {"changed": False, **made}

    @staticmethod
    def _asked(hosts: dict[str, rendering.Host], listed: list[str]) -> plan.Asked:
        first = next(iter(hosts.values()))
        # The inventory plugin has a group of this name too: who is a server now. A list of one's own says who is to be one.
        own_list = listed and not any("mesh_role" in host.raw for host in hosts.values())
        policy = first.value("consul_server_policy", "listed" if own_list else "elect")
        if policy not in ("elect", "all", "listed"):
            raise AnsibleActionFail(f"consul_server_policy is {policy!r}: write elect, all or listed")
        described = {name: {key: host.value(key) for key in READ if key in host.raw} for name, host in hosts.items()}
        return plan.Asked(described, policy, listed)


def render(host: rendering.Host, role: str, given: dict, facts: dict, rendered: memory.Memory) -> dict[str, typing.Any]:
    """What should be there of a role on a host, and what else the plan compares; see plan.Render."""
    given = {**given, f"__{role}_facts": facts}
    names = [f"__{role}_manifest", *EXTRAS.get(role, {}).values()]

    def make() -> dict[str, typing.Any]:
        asked = host.role_value(role, names[0], given)
        extras = {key: host.role_value(role, variable, given) for key, variable in EXTRAS.get(role, {}).items()}
        if "config" in extras:
            extras["config"] = public.without_secrets(extras["config"])
        return {"wanted": manifest.wanted(asked), **extras}

    return rendered.recall(host.inputs(role, names, given), make)
