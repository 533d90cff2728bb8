# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a role would put on a host, told on the controller."""

from __future__ import annotations

import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.plugin_utils import memory, rendering

# What is large, and is no part of any template.
LEFT_OUT = ("mesh_look", "mesh_plan", "mesh_first_plan", "mesh_verified")
# What of a role the plan compares besides its manifest.
EXTRAS = {
    "node": {"packages": "node_packages"},
    "cjdns": {"config": "__cjdns_public_config"},
    "dnsmasq": {
        "managed": "dnsmasq_resolver_managed",
        "addresses": "dnsmasq_listen_addresses",
        "spare": "dnsmasq_spare_address",
        "options": "dnsmasq_resolv_options",
        "probe_names": "dnsmasq_probe_names",
        "search": "dnsmasq_search",
        "domains": "__dnsmasq_domains",
    },
    "h2o": {"routes": "h2o_routes"},
}


def render(host: rendering.Host, role: str, given: dict, facts: dict, rendered: memory.Memory) -> dict[str, typing.Any]:
    """What should be there of a role on a host, and what else the plan compares; see drift.Render."""
    given = {**given, f"__{role}_facts": facts}
    names = [f"__{role}_manifest", *EXTRAS.get(role, {}).values()]

    def make() -> dict[str, typing.Any]:
        asked = host.role_value(role, names[0], given)
        extras = {key: host.role_value(role, variable, given) for key, variable in EXTRAS.get(role, {}).items()}
        if "config" in extras:
            extras["config"] = public.without_secrets(extras["config"])
        return {"wanted": manifest.wanted(asked), **extras}

    return rendered.recall(host.inputs(role, names, given), make)


def enabled(host: rendering.Host, rendered: memory.Memory) -> typing.Any:
    """Whether a host is to converge the mesh."""
    name = "converger_enabled"
    return rendered.recall(host.inputs("converger", [name], {}), lambda: host.role_value("converger", name, {}))
