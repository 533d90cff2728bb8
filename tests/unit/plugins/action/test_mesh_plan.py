# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings on their way through Ansible itself: out of an inventory, into the plan, and by the plays of site.yml to the hosts."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible_collections.vdloo.mesh.plugins.action import mesh_plan
from ansible_collections.vdloo.mesh.plugins.module_utils import digest, look, settings
from ansible_collections.vdloo.mesh.plugins.plugin_utils import agreement, memory, plan, rendering
from fake_mesh import ADDRESS, KEYS

ROOT = Path(__file__).resolve().parents[4]
NODES = ("n1", "n2", "n3")
LITERAL = [{"service": "{{ never_a_template }}", "port": 2}]
OLD = settings.update(
    {}, settings.collect({name: {"h2o_routes": [], "h2o_attempts": 4} for name in NODES}), "2026-01-01T00:00:00Z", "laptop"
)
NEW = settings.update(
    OLD, settings.collect({name: {"h2o_routes": LITERAL, "consul_config": {"a": 1}} for name in NODES}), "2026-01-02T00:00:00Z", "laptop"
)


def looked(kept: dict) -> dict:
    """Nodes that have their keys and are yet to be set up, but for the first role."""
    found = {}
    for number, name in enumerate(NODES):
        found[name] = one = copy.deepcopy(look.NOTHING)
        one["system"].update(tun=True, ipv6=True, iproute=True, ssh_key="ssh-ed25519 " + "BCD"[number] * 68)
        one["mesh"].update(generation="one", seeds=list(NODES), settings=kept[name])
        one["cjdns"].update(public_key=KEYS[name], address=ADDRESS[name])
        one["manifests"] = {
            "node": {"facts": {"packages": []}, "directories": {}, "files": {}, "links": {}, "programs": {}, "services": {}}
        }
    return found


@pytest.fixture
def play(tmp_path):
    """play(inventory, looks) is what the hosts have, and what the plan says, at the end of the first plays of site.yml."""

    def play(inventory: dict, looks: dict, *options: str) -> tuple[dict, dict, str]:
        named = {play["name"]: play for play in reversed(yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text()))}
        out = tmp_path / "out.json"
        said = "{{ {'plan': mesh_plan, 'again': mesh_again, 'hosts': dict(groups.mesh | zip(groups.mesh | map('extract', hostvars) | list))} | to_json }}"
        first = [
            {"set_fact": {"mesh_look": "{{ (lookup('file', 'looks.json') | from_json)[inventory_hostname] }}"}},
            {"vdloo.mesh.mesh_plan": {"look": "mesh_look"}, "register": "mesh_plan", "run_once": True},
        ]
        second = [
            {
                "vdloo.mesh.mesh_plan": {"look": "mesh_look", "final": True, "settings": "{{ mesh_plan.settings }}"},
                "register": "mesh_again",
                "run_once": True,
            },
            {
                "copy": {"content": said, "dest": str(out)},
                "vars": {"ansible_python_interpreter": sys.executable},
                "check_mode": False,
                "run_once": True,
            },
        ]
        plays = [
            {"hosts": "mesh", "gather_facts": False, "tasks": first},
            named["Show the plan"],
            named["Use the newest settings"],
            {"hosts": "mesh", "gather_facts": False, "tasks": second},
        ]
        (tmp_path / "looks.json").write_text(json.dumps(looks))
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (tmp_path / "play.yml").write_text(yaml.safe_dump(plays))
        (tmp_path / "ansible.cfg").touch()
        environment = {
            **os.environ,
            "HOME": str(tmp_path / "home"),
            "XDG_CACHE_HOME": str(tmp_path / "home"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        finished = subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", "hosts.yml", "play.yml", *options],
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
        output = finished.stdout + finished.stderr
        assert finished.returncode == 0, output
        told = json.loads(out.read_text())
        assert told["again"]["settings"] == told["plan"]["settings"]
        return told["plan"], told["hosts"], " ".join(output.split())

    return play


def hosts(variables: dict, **own: dict) -> dict:
    return {
        "mesh": {
            "hosts": {name: {"address": f"192.0.2.{name[1]}", **own.get(name, {})} for name in NODES},
            "vars": {"ansible_connection": "local", "mesh_endpoints": ["{{ address }}:4321"], **variables},
        }
    }


def test_what_the_operator_sets_becomes_the_settings_and_nothing_is_set_anew(play):
    inventory = hosts(
        {"h2o_routes": [{"service": "web", "port": 80}], "h2o_access_log": "/var/log/{{ inventory_hostname }}"}, n2={"h2o_attempts": 3}
    )
    inventory["consul_servers"] = {"hosts": {"n1": {}}}
    plan, _hosts, output = play(inventory, looked(dict.fromkeys(NODES, NEW)), "-e", "consul_version=1.9.9")
    values = plan["settings"]["values"]
    assert (plan["settings"]["version"], values["mesh"]) == (3, {"h2o_routes": [{"service": "web", "port": 80}], "consul_version": "1.9.9"})
    assert values["hosts"]["n2"] == {"h2o_access_log": "/var/log/n2", "h2o_attempts": 3}
    assert (values["consul_servers"], plan["servers"]) == (["n1"], ["n1", "n2", "n3"])
    assert "settings: h2o_routes differs from what laptop set at 2026-01-02T00:00:00Z" in plan["lines"]
    assert not [name for name, group in plan["groups"] if group == "plan_settings"]
    assert "TASK [Use the newest settings]" not in output


def test_a_run_from_a_node_that_was_off_uses_the_newest_settings_and_what_the_user_set_there(play):
    known = {"mesh_role": "server", "mesh_state": "member", "mesh_settings": digest.of(OLD), **settings.for_mesh(OLD)}
    inventory = hosts({**known, "h2o_http_port": 81})
    plan, seen, _output = play(inventory, looked({"n1": NEW, "n2": NEW, "n3": OLD}))
    assert plan["settings"]["values"]["mesh"] == {"h2o_routes": LITERAL, "consul_config": {"a": 1}, "h2o_http_port": 81}
    assert plan["settings"]["values"]["hosts"] == {}
    for name in NODES:
        assert (seen[name]["h2o_routes"], seen[name]["consul_config"], seen[name]["h2o_http_port"]) == (LITERAL, {"a": 1}, 81)
        # What is no longer set is as the role has it.
        assert seen[name]["h2o_attempts"] == yaml.safe_load((ROOT / "roles" / "h2o" / "defaults" / "main.yml").read_text())["h2o_attempts"]


@pytest.mark.parametrize(
    ("asked", "skipped", "whole", "covered"),
    [
        (["all"], [], True, set(plan.ROLES)),
        (["all"], ["consul"], False, set(plan.ROLES) - {"consul"}),
        (["all"], ["h2o_run", "slow"], False, set(plan.ROLES) - {"h2o"}),
        (["h2o"], [], False, {"h2o"}),
        (["h2o_configure"], [], False, set()),
        (["h2o", "consul"], ["consul_run"], False, {"h2o"}),
        (["always"], [], False, set()),
    ],
)
def test_tags_say_which_roles_a_run_lets_run(asked, skipped, whole, covered):
    assert mesh_plan.covers(asked, skipped) == (whole, covered)


def test_a_setting_that_is_neither_true_nor_false_is_refused(play):
    with pytest.raises(AssertionError, match="mesh_canary is 'maybe': write true or false"):
        play(hosts({"mesh_canary": "maybe"}), looked(dict.fromkeys(NODES, NEW)))


@pytest.mark.parametrize("least", [-1, "many", 1.5, True, None])
def test_a_minimum_of_nodes_that_is_no_number_is_refused_before_anything_is_done(tmp_path, least):
    with pytest.raises(AnsibleActionFail, match="mesh_minimum_nodes is .*: write a number of nodes, or 0"):
        asked_with(tmp_path, least)


@pytest.mark.parametrize("least", [0, 3, "3"])
def test_a_minimum_of_nodes_is_a_number(tmp_path, least):
    assert asked_with(tmp_path, least).policy == "elect"


def asked_with(tmp_path, least):
    record = settings.update({}, settings.collect({"n1": {"mesh_minimum_nodes": least}}), "2026-01-01T00:00:00Z", "laptop")
    one = {"n1": rendering.Host(rendering.Roles(DataLoader()), {"inventory_hostname": "n1"})}
    agreed = agreement.Agreed(record, {}, {}, {}, [], [])
    return mesh_plan.ActionModule._asked(one, agreed, memory.Memory(tmp_path / "memory"), "", frozenset())
