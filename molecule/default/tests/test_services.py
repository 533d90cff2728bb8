# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Services that a user publishes with the role service. Each test leaves the mesh as it was."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter

import pytest
import yaml
from helpers import GONE, NODES, ROLE, SHELL, SHELL_NAME, WEB, WEB_NAME, publish
from mesh import ROOT, lost, playbook

FILES = "find /etc/consul.d /var/lib/vdloo-mesh/manifests -type f -exec sha256sum {} + | sort"


def refused(mesh, path, node: str, services: list[dict]) -> list[str]:
    """What the role says to each of these services."""
    tasks = [
        {
            "block": [{"ansible.builtin.include_role": {"name": ROLE}, "vars": {**SHELL, **service}}],
            "rescue": [{"ansible.builtin.debug": {"msg": "REFUSED: {{ ansible_failed_result.msg }}"}}],
        }
        for service in services
    ]
    (path / "bad.yml").write_text(yaml.safe_dump([{"hosts": node, "gather_facts": False, "tasks": tasks}]))
    run = playbook(mesh.inventory, path / "bad.yml")
    assert run.changed == {node: 0}, run.output
    # YAML doubles the quotes in a text, and breaks its lines.
    told = re.findall(r"REFUSED: (.*?)\n\n", run.output, re.DOTALL)
    return [" ".join(text.replace("''", "'").split()) for text in told]


def known(mesh, node: str) -> dict[str, dict]:
    """The services that the agent of a node has."""
    return json.loads(mesh.node(node).check_output("curl -s http://127.0.0.1:8500/v1/agent/services"))


def test_a_published_service_is_a_file_that_only_root_and_consul_read(mesh):
    path = mesh.node("n1").file("/etc/consul.d/service-web.json")
    assert (path.user, path.group, path.mode) == ("root", "consul", 0o640)
    assert known(mesh, "n1")["web"]["Meta"]["vdloo-mesh"] in path.content_string


def test_publishing_it_again_changes_nothing(mesh, tmp_path):
    tasks = yaml.safe_load((ROOT / "tests/web/deploy.yml").read_text())[0]["tasks"]
    web = next(task["vars"] for task in tasks if "ansible.builtin.include_role" in task)
    run = publish(mesh, tmp_path, "n1", [web])
    assert (run.code, run.changed) == (0, {"n1": 0}), run.output
    # What it finds to be so it finds in two calls, and it has the agent read nothing.
    assert "Have the agent read it" in run.output and "skipping: [n1]" in run.output, run.output


def test_what_cannot_be_meant_is_refused_before_anything_changes(mesh, tmp_path):
    before = mesh.node("n1").check_output(FILES)
    mesh.node("n1").check_output('echo \'{"service": {"name": "test-shell", "port": 22}}\' >/etc/consul.d/mine.json')
    try:
        told = refused(
            mesh,
            tmp_path,
            "n1",
            [
                {"service_name": "test_shell", "service_port": 70000},
                {"service_name": "test-script", "service_port": 23, "service_check": {"script": ["/bin/true"]}},
                {},
            ],
        )
    finally:
        mesh.node("n1").check_output("rm /etc/consul.d/mine.json")
    assert len(told) == 3, told
    assert "service_name 'test_shell' is not a DNS label" in told[0] and "service_port 70000 is not between 1 and 65535" in told[0]
    assert "enable_local_script_checks: true" in told[1]
    assert "/etc/consul.d/mine.json defines the service test-shell as well" in told[2]
    assert mesh.node("n1").check_output(FILES) == before


def test_services_of_one_node_come_change_and_go_without_a_restart(mesh, tmp_path):
    others, before, files = mesh.pids("n2"), mesh.pids("n1"), mesh.node("n1").check_output(FILES)
    door = {"service_name": "test-door", "service_port": 22, "service_site": "Home, cellar", "service_version": "2.1"}
    try:
        dry = publish(mesh, tmp_path, "n1", [SHELL], "--check", "--diff")
        assert (dry.code, dry.changed["n1"]) == (0, 2), dry.output
        assert '+        "name": "test-shell",' in dry.output
        assert mesh.node("n1").check_output(FILES) == files
        run = publish(mesh, tmp_path, "n1", [SHELL, door, {**SHELL, "service_tags": ["v3"]}, GONE[1], door])
        assert run.code == 0, run.output
        assert set(known(mesh, "n1")) >= {"web", "test-shell", "test-door"}
        names = ("test-shell", "v3.test-shell", "test-door", "site-home-cellar.test-door", "v-2-1.test-door")
        expected = {**{f"{name}.service.consul": {"n1"} for name in names}, "site-cloud.test-door.service.consul": set()}
        for node in NODES:
            mesh.wait_for(lambda node=node: mesh.found(node, *expected) == expected, f"{node} finds the services", 20)
    finally:
        gone = publish(mesh, tmp_path, "n1", GONE)
    assert gone.code == 0, gone.output
    assert {name for name in known(mesh, "n1") if name.startswith("test-")} == set()
    mesh.wait_for(lambda: mesh.found("n3", SHELL_NAME) == {SHELL_NAME: set()}, "n3 finds it no more", 20)
    assert mesh.node("n1").check_output(FILES) == files
    assert (mesh.pids("n1"), mesh.pids("n2")) == (before, others)


@pytest.mark.parametrize("name", NODES)
def test_every_node_answers_for_the_routes_of_the_services(mesh, name):
    # Each instance has one of its own in tests/web/deploy.yml, to itself alone; all other names go to both.
    for owner in ("n1", "n2"):
        ask = f"for i in $(seq 8); do curl -s -m 5 -H 'Host: {owner}.example.org' http://127.0.0.1/; done"
        assert set(mesh.node(name).check_output(ask).splitlines()) == {f"served by {owner}"}


def test_what_a_node_answers_for_is_in_its_record(mesh):
    told = {name: [(route["host"], route["service"]) for route in mesh.registry[name].get("routes", [])] for name in NODES}
    assert told == {"n1": [("n1.example.org", "web")], "n2": [("n2.example.org", "web")], "n3": []}


@pytest.mark.parametrize("fault", ["its process ends", "its node freezes"])
def test_an_instance_that_is_gone_loses_its_name_in_seconds_and_no_request(mesh, fault):
    node = mesh.node("n2")
    stop, start = (functools.partial(node.check_output, f"systemctl {verb} mesh-demo-web") for verb in ("stop", "start"))
    begin, end, seconds = {
        "its process ends": (stop, start, 5),
        "its node freezes": (mesh.container("n2").pause, mesh.container("n2").unpause, 15),
    }[fault]
    with mesh.requests("n3") as answers:
        mesh.wait_for(lambda: mesh.found("n3", WEB_NAME) == {WEB_NAME: WEB}, "n3 finds both", 20)
        begin()
        try:
            mesh.wait_for(lambda: mesh.found("n3", WEB_NAME) == {WEB_NAME: {"n1"}}, f"n3 finds the other one alone after {fault}", seconds)
        finally:
            end()
        mesh.wait_for(lambda: mesh.found("n3", WEB_NAME) == {WEB_NAME: WEB}, "n3 finds both again", 30)
    assert len(answers) > 20 and lost(answers) == []
    assert {answer.split()[2] for answer in answers} == WEB


@pytest.fixture(scope="module")
def _three_instances(mesh):
    """The service web on n3 as well: another user's, who publishes it with Consul's own command."""
    node = mesh.node("n3")
    node.check_output("systemd-run --collect --unit=test-third python3 /opt/mesh/tests/web/web.py n3 8080")
    try:
        node.check_output("consul services register -name=web -port=8080")
        for name in NODES:
            mesh.wait_for(lambda name=name: mesh.found(name, WEB_NAME) == {WEB_NAME: set(NODES)}, f"{name} finds all three", 20)
        yield
    finally:
        node.run("consul services deregister -id=web")
        node.check_output("systemctl stop test-third")
    for name in NODES:
        mesh.wait_for(lambda name=name: mesh.found(name, WEB_NAME) == {WEB_NAME: WEB}, f"{name} finds the third no more", 20)


@pytest.mark.usefixtures("_three_instances")
@pytest.mark.parametrize("name", NODES)
def test_a_thousand_requests_spread_evenly_over_three_instances(mesh, name):
    # Of one client, over one connection. Each instance has a third, and a fifth of that more or less: chance alone leaves that in one of 48,000 tests.
    served = Counter(mesh.node(name).check_output("curl -s -m 60 'http://127.0.0.1/?[1-1000]'").splitlines())
    assert set(served) == {f"served by {owner}" for owner in NODES}
    assert all(267 <= count <= 400 for count in served.values()), served
