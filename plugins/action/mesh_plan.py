# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes the plan of a run on the controller, without a remote call. The documentation is in the module of this name."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.vdloo.mesh.plugins.module_utils import builds, settings
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock
from ansible_collections.vdloo.mesh.plugins.plugin_utils import (
    agreement,
    bundle,
    expected,
    inventory_settings,
    membership,
    memory,
    plan,
    rendering,
)

# The host variables that describe a node; the rest of a host's variables stays untemplated.
READ = (
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "mesh_endpoints",
    "mesh_server_eligible",
    "mesh_site",
    "mesh_state",
    "mesh_zones",
)
display = Display()


class ActionModule(ActionBase):
    """One call for all hosts: use it with run_once."""

    _supports_check_mode = True
    _supports_diff = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        super().run(tmp, task_vars)
        specification = {
            "look": {"type": "str", "required": True},
            "final": {"type": "bool"},
            "settings": {"type": "dict"},
            "joining": {"type": "list", "elements": "str", "default": []},
            "leaving": {"type": "list", "elements": "str", "default": []},
            "leaving_state": {"type": "str", "choices": ["left", "revoked"], "default": "left"},
            "leaving_gone": {"type": "bool", "default": False},
        }
        _result, arguments = self.validate_argument_spec(specification)
        roles = rendering.Roles(self._loader)
        hosts: dict[str, rendering.Host] = {}
        looks: dict[str, dict] = {}
        groups = rendering.plain({name: task_vars["groups"].get(name) or [] for name in ("mesh", "consul_servers")})
        for name in groups["mesh"]:
            raw = task_vars["hostvars"].raw_get(name)
            hosts[name] = rendering.Host(roles, raw, {arguments["look"], *expected.LEFT_OUT})
            if name in task_vars["ansible_play_hosts"]:
                looks[name] = rendering.plain(raw[arguments["look"]])
        rendered = memory.Memory(memory.default_path())
        build = self._build()
        now = clock.now()
        try:
            agreed = self._agreed(
                looks, hosts, roles, groups["consul_servers"], rendered, now, build, rendering.plain(arguments["settings"])
            )
            made = plan.make(
                looks,
                self._asked(hosts, agreed, rendered, build, frozenset(groups["mesh"]) - set(task_vars["ansible_play_hosts_all"]))._replace(
                    joining=frozenset(arguments["joining"]),
                    leaving=membership.Leaving(frozenset(arguments["leaving"]), arguments["leaving_state"], arguments["leaving_gone"]),
                ),
                lambda name, role, given, facts: expected.render(hosts[name], role, given, facts, rendered),
                now,
                # A dry run makes no keys: there is nothing to wait for.
                final=arguments["final"] or self._task.check_mode,
            )
        except (plan.PlanError, ValueError) as error:
            raise AnsibleActionFail(str(error)) from error
        rendered.keep()
        hand_over(made, hosts, agreed)
        made["lines"] = agreed.lines + made["lines"]
        for warning in agreed.warnings + made.pop("warnings"):
            display.warning(warning)
        roles = {role for planned in made["hosts"].values() for role in planned["drift"]} & set(plan.ROLES)
        whole, covered = covers(task_vars["ansible_run_tags"], task_vars["ansible_skip_tags"])
        return {
            "changed": False,
            "collection": build,
            "by": socket.gethostname(),
            "whole": whole,
            "left_out": sorted(roles - covered),
            **made,
        }

    @staticmethod
    def _agreed(
        looks: dict[str, dict],
        hosts: dict[str, rendering.Host],
        roles: rendering.Roles,
        listed: list[str],
        rendered: memory.Memory,
        now: str,
        build: str,
        earlier: dict | None,
    ) -> agreement.Agreed:
        """Agree on the settings, and let the hosts have them."""
        known = {name: record for look in looks.values() for name, record in (look["mesh"].get("registry") or {}).items()}
        members = {name for name, record in known.items() if isinstance(record, dict) and record.get("state") == "member"}
        used = next((host.value("mesh_settings") for host in hosts.values() if "mesh_settings" in host.raw), settings.NO_DIGEST)
        inventory = agreement.Inventory(
            # The plugin has a group consul_servers too: who is a server now. A list of one's own says who is to be one.
            from_mesh=is_from_mesh(hosts),
            used=used,
            servers=listed,
            few=len(hosts) == 1 and bool(members - set(hosts)),
            build="" if bundle.is_placed() else build,
        )
        told = inventory_settings.told(hosts, roles, rendered)
        agreed = agreement.reach(looks, told, inventory, now, socket.gethostname(), earlier)
        wanted = (agreed.record.get("values") or settings.NO_VALUES).get("collection", build)
        if wanted != build:
            # Its roles would undo what those of the newer one did.
            raise AnsibleActionFail(
                f"the mesh has another build of this collection by now ({builds.name(wanted)}, this is {builds.name(build)}): a run from a node that "
                "has it brings it here. Nothing was changed"
            )
        for name in {*agreed.changed, *agreed.gone}:
            hosts[name].override(agreed.changed.get(name, {}), agreed.gone.get(name, []))
        return agreed

    @staticmethod
    def _build() -> str:
        try:
            return bundle.digest()
        except bundle.BundleError as error:
            raise AnsibleActionFail(str(error)) from error

    @staticmethod
    def _asked(
        hosts: dict[str, rendering.Host], agreed: agreement.Agreed, rendered: memory.Memory, build: str, outside: frozenset[str]
    ) -> plan.Asked:
        name, first = next(iter(hosts.items()))
        listed = (agreed.record.get("values") or settings.NO_VALUES)["consul_servers"] or []
        policy = settings.for_host(agreed.record, name).get("consul_server_policy", "listed" if listed else "elect")
        if policy not in ("elect", "all", "listed"):
            raise AnsibleActionFail(f"consul_server_policy is {policy!r}: write elect, all or listed")
        canary = settings.for_host(agreed.record, name).get("mesh_canary", True)
        if not isinstance(canary, (bool, str)) or str(canary).lower() not in ("true", "false", "yes", "no"):
            raise AnsibleActionFail(f"mesh_canary is {canary!r}: write true or false")
        least = settings.for_host(agreed.record, name).get("mesh_minimum_nodes", 0)
        if isinstance(least, bool) or not str(least).isdecimal():
            raise AnsibleActionFail(f"mesh_minimum_nodes is {least!r}: write a number of nodes, or 0 for no minimum")
        described = {name: {key: host.value(key) for key in READ if key in host.raw} for name, host in hosts.items()}
        convergers = {name for name, host in hosts.items() if boolean(expected.enabled(host, rendered))}
        return plan.Asked(
            described,
            policy,
            listed,
            agreed.record,
            is_from_mesh(hosts),
            agreed.frozen,
            convergers,
            build,
            socket.gethostname(),
            boolean(canary),
            outside,
        )


def covers(asked: Iterable[str], skipped: Iterable[str]) -> tuple[bool, set[str]]:
    """Whether the tags of a run let all of all roles run, and which roles they let run as a whole."""
    touched = {role for role in plan.ROLES if any(tag == role or tag.startswith(f"{role}_") for tag in skipped)}
    covered = set(plan.ROLES) - touched if "all" in asked else set(asked) & set(plan.ROLES) - touched
    return covered == set(plan.ROLES), covered


def is_from_mesh(hosts: dict[str, rendering.Host]) -> bool:
    """Whether the inventory plugin made the inventory."""
    return any("mesh_role" in host.raw for host in hosts.values())


def hand_over(made: dict, hosts: dict[str, rendering.Host], agreed: agreement.Agreed) -> None:
    """Put the variables that a host has to be told into its plan, where the run does anything at all."""
    for name in sorted({*agreed.changed, *agreed.gone} & set(made["hosts"])) if made["groups"] else ():
        # A variable cannot be taken away in the middle of a run; with the role's own default nobody can tell.
        gone = [variable for variable in agreed.gone.get(name, []) if variable not in settings.MESH_WIDE]
        defaults = {variable: hosts[name].role_value(settings.role_of(variable), variable, {}) for variable in gone}
        made["hosts"][name]["settings"] = {**agreed.changed.get(name, {}), **defaults}
        made["groups"].append([name, "plan_settings"])
