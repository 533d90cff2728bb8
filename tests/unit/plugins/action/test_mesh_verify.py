# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The second look at a node, on its way through Ansible itself: this machine, which is no node, stands for one that has lost everything."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.vdloo.mesh.plugins.module_utils import look

ROOT = Path(__file__).resolve().parents[4]
ROLES = ("node", "cjdns", "consul", "dnsmasq", "h2o", "converger")
WANTED = {"dials": [{"name": "n2", "public_key": "b.k"}], "accepts": [], "diallers": [], "consul": {}, "h2o": {"h2o_mesh_routes": []}}


@pytest.fixture
def verify(tmp_path):
    """verify(look before, plan of the host) is what the action says of it."""

    def verify(before: dict, planned: dict) -> dict:
        plan = {"hosts": {"n1": {**WANTED, **planned}, "n2": WANTED}, "collection": "c" * 64, "settings_digest": "v"}
        out = tmp_path / "out.json"
        (tmp_path / "before.json").write_text(json.dumps({"mesh_look": before, "mesh_plan": plan}))
        tasks = [
            {"vdloo.mesh.mesh_verify": {"look": "mesh_look", "plan": "{{ mesh_plan }}"}, "register": "verified", "ignore_errors": True},
            {"copy": {"content": "{{ verified | to_json }}", "dest": str(out)}},
        ]
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "converger_enabled": True}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"mesh": {"hosts": {"n1": {}, "n2": {}}, "vars": local}}))
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "n1", "gather_facts": False, "tasks": tasks}]))
        (tmp_path / "ansible.cfg").touch()
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        }
        command = [Path(sys.executable).parent / "ansible-playbook", "-i", "hosts.yml", "play.yml", "-e", "@before.json"]
        finished = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return json.loads(out.read_text())

    return verify


def test_a_node_that_lost_its_roles_and_its_links_is_not_well(verify):
    before = copy.deepcopy(look.NOTHING)
    before["cjdns"]["established"] = ["b.k"]
    said = verify(before, {"drift": {"h2o": ["/etc/h2o/mesh.conf differs"]}})
    assert said["failed"]
    assert said["msg"].startswith("n1 is not well with the new settings: node: ")
    for role in ROLES:
        assert any(problem.startswith(f"{role}: ") for problem in said["problems"]), said
    assert said["problems"][-1] == "cjdns: has 0 live links, and had 1"


def test_roles_that_the_run_leaves_alone_and_what_was_so_before_say_nothing(verify):
    said = verify(copy.deepcopy(look.NOTHING), {"drift": {}, "frozen": list(ROLES)})
    assert not said.get("failed"), said
    assert said["problems"] == []
