# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is read of an inventory, with Ansible's own loader, vault and templates, and the roles of this collection."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret, VaultSecretsContext
from ansible.vars.manager import VariableManager
from ansible_collections.vdloo.mesh.plugins.module_utils import settings
from ansible_collections.vdloo.mesh.plugins.plugin_utils import inventory_settings, memory, rendering

ROOT = Path(__file__).resolve().parents[4]
# What a user's own playbook publishes is none of the mesh's settings.
ROLES = sorted({path.name for path in (ROOT / "roles").iterdir()} - {"service"})
SECRETS = [("default", VaultSecret(b"password"))]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read({file: text}) is what an inventory of n1 and n2 with these files in group_vars sets."""
    monkeypatch.setattr(rendering, "load_extra_vars", lambda _loader: {})
    monkeypatch.setattr(VaultSecretsContext, "_current", None)
    VaultSecretsContext.initialize(VaultSecretsContext(SECRETS))
    (tmp_path / "hosts.yml").write_text("mesh: {hosts: {n1: {}, n2: {}}}")

    def read(rendered=None, **files):
        for name, text in files.items():
            path = tmp_path / "group_vars" / "mesh" / f"{name}.yml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        loader = DataLoader()
        loader.set_vault_secrets(SECRETS)
        inventory = InventoryManager(loader=loader, sources=[str(tmp_path / "hosts.yml")])
        manager = VariableManager(loader=loader, inventory=inventory)
        roles = rendering.Roles(loader)
        hosts = {
            name: rendering.Host(roles, manager.get_vars(host=inventory.get_host(name), include_hostvars=False)) for name in ("n1", "n2")
        }
        return inventory_settings.told(hosts, roles, rendered or memory.Memory(tmp_path / "rendered.json"))

    return read


def vaulted(text: str) -> str:
    return VaultLib(SECRETS).encrypt(text.encode()).decode()


def inline(text: str) -> str:
    return "!vault |\n" + "".join(f"    {line}\n" for line in vaulted(text).splitlines())


def test_what_is_set_is_told_and_nothing_else(read):
    told = read(
        a="h2o_attempts: 3\nh2o_routes: [{service: web, port: 80}]\nconsul_server_policy: all\nmy_own: 1\nansible_user: root\nmesh_site: home\n"
    )
    wanted = {"h2o_attempts": 3, "h2o_routes": [{"service": "web", "port": 80}], "consul_server_policy": "all"}
    assert told.variables == {"n1": wanted, "n2": wanted}
    assert told.withheld == {"n1": {}, "n2": {}}
    # And in the types of JSON, so that they compare as what a node keeps.
    found = told.variables["n1"]
    kinds = (type(found["h2o_attempts"]), type(found["h2o_routes"][0]["port"]), type(found["h2o_routes"][0]["service"]))
    assert kinds == (int, int, str)


def test_what_the_run_hands_over_never_travels(read):
    text = "".join(f"{name}: evil\n" for name in settings.HANDED_OVER)
    assert read(a=text).variables == {"n1": {}, "n2": {}}


def test_a_template_is_told_as_the_role_would_see_it(read):
    names = "mine: '{{ inventory_hostname }}-x'\nconsul_node_name: '{{ mine }}'\n"
    told = read(a=names + "h2o_access_log: '/var/log/{{ h2o_http_port }}'\nh2o_config: {a: ['{{ 1 + 1 }}']}\n")
    assert told.variables["n2"] == {"consul_node_name": "n2-x", "h2o_access_log": "/var/log/80", "h2o_config": {"a": [2]}}


def test_a_template_is_rendered_once_and_each_variable_has_a_value_of_its_own(read, tmp_path, monkeypatch):
    # Both speak of each other, so that the same is read for both.
    text = "h2o_access_log: \"{{ 'h2o_consul_domain' }}/{{ mine }}\"\nh2o_consul_domain: \"{{ 'h2o_access_log' }}.{{ mine }}\"\nmine: a\n"
    rendered = memory.Memory(tmp_path / "rendered.json")
    first = read(rendered, a=text)
    assert first.variables["n1"] == {"h2o_access_log": "h2o_consul_domain/a", "h2o_consul_domain": "h2o_access_log.a"}
    monkeypatch.setattr(rendering.Host, "role_value", lambda *_arguments: pytest.fail("rendered again"))
    assert read(rendered, a=text) == first


def test_a_value_without_a_template_costs_no_template(read, monkeypatch):
    monkeypatch.setattr(rendering.Host, "read", None)
    assert read(a="h2o_attempts: 3\nh2o_config: {a: [b]}\n").variables["n1"] == {"h2o_attempts": 3, "h2o_config": {"a": ["b"]}}


@pytest.mark.parametrize(
    ("files", "variable", "reason"),
    [
        ({"a": f"consul_version: {inline('1.9')}"}, "consul_version", "is vaulted"),
        ({"a": f'h2o_access_log: "x {{{{ mine }}}}"\nmine: {inline("x")}'}, "h2o_access_log", "reads mine, which is vaulted"),
        (
            {"a": f"h2o_access_log: '{{{{ one }}}}'\none: '{{{{ two }}}}'\ntwo: {inline('x')}"},
            "h2o_access_log",
            "reads two, which is vaulted",
        ),
        ({"a": "h2o_config:\n  deep:\n    - key: " + inline("x").replace("    ", "          ")}, "h2o_config", "is vaulted"),
        ({"a": "h2o_access_log: '{{ mine }}'", "v": vaulted("mine: x\n")}, "h2o_access_log", "reads mine, which comes from"),
        ({"v": vaulted("h2o_attempts: 3\n")}, "h2o_attempts", "comes from"),
        ({"v": vaulted("h2o_config: {a: [3]}\n")}, "h2o_config", "comes from"),
        ({"a": "h2o_access_log: '{{ ansible_facts.hostname }}'"}, "h2o_access_log", "cannot be told before the run"),
        ({"a": "h2o_config: {a: 2026-01-01}"}, "h2o_config", "is no plain JSON"),
    ],
)
def test_a_secret_and_what_only_the_node_knows_stay_here_and_are_named(read, files, variable, reason):
    told = read(**files)
    assert told.variables == {"n1": {}, "n2": {}}
    assert told.withheld["n1"].keys() == {variable} and reason in told.withheld["n1"][variable]


def secret_options(options: dict, path: str = "") -> list[str]:
    found = []
    for name, option in options.items():
        if option.get("no_log"):
            found.append(path + name)
        found += secret_options(option.get("options") or {}, f"{path}{name}.")
    return found


@pytest.mark.parametrize("role", ROLES)
def test_no_secret_of_a_role_is_a_setting(role):
    specification = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    for entry in specification.values():
        for name in secret_options(entry.get("options") or {}):
            assert not settings.is_setting(name.split(".")[0]), name


@pytest.mark.parametrize("role", ROLES)
def test_all_that_a_user_may_set_is_a_setting(role):
    """But for what site.yml hands over, by name."""
    roles = rendering.Roles(DataLoader())
    named = inventory_settings.names(roles)
    for variable in yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text()) or {}:
        assert variable in named or variable in settings.HANDED_OVER, variable


def test_what_site_yml_hands_over_is_no_setting():
    plays = [play for name in ("site", "apply") for play in yaml.safe_load((ROOT / "playbooks" / f"{name}.yml").read_text())]
    handed = {name for play in plays for name in play.get("vars", {})}
    tasks = [task for play in plays for entry in play.get("tasks") or [] for task in (entry, *entry.get("block", []))]
    handed |= {name for task in tasks for name in task.get("vars", {})}
    assert {"consul_server", "cjdns_peers", "node_seeds"} <= handed
    assert not [name for name in handed if settings.is_setting(name)]
