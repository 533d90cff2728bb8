# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run looks at each node once, says what it will do, and does no more than that."""

from __future__ import annotations

import json
import re

from mesh import ENVIRONMENT, ROOT, playbook

NODES = ("n1", "n2", "n3")
# A live peer is removed as somebody would by hand: in the daemon, not in its file.
UNLINK = """
import sys
sys.path.insert(0, "/opt/mesh/collections")
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import access
client = access.client({"admin_host": None, "admin_port": None, "admin_password": None, "config_path": "/etc/cjdroute.conf", "timeout": 2.0})
client.disconnect(sys.argv[1])
"""


def planned(output: str) -> set[str]:
    """The lines of the plan that a run showed."""
    return set(re.findall(r"^\s+- '?((?:n\d|consul): .*?)'?$", output, re.MULTILINE))


def test_a_run_over_a_converged_mesh_is_one_remote_call_a_node(mesh, tmp_path):
    counted = tmp_path / "calls.json"
    environment = {**ENVIRONMENT, "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callbacks"), "VDLOO_MESH_CALLS": str(counted)}
    run = playbook(mesh.inventory, ROOT / "site.yml", environment=environment)
    assert run.code == 0, run.output
    assert set(run.changed.values()) == {0}, run.output
    assert planned(run.output) == set()
    calls = {name: host["tasks"] for name, host in json.loads(counted.read_text())["hosts"].items()}
    assert calls == {name: {"Look at the node": 1} for name in NODES}


def test_the_plan_names_a_changed_file_a_stopped_service_and_a_removed_peer_and_the_run_mends_them(mesh):
    pids = {name: mesh.pids(name) for name in NODES}
    mesh.node("n1").check_output("echo '# by hand' >> /etc/h2o/mesh.conf")
    mesh.node("n2").check_output("systemctl stop h2o")
    mesh.node("n3").check_output("python3 -c %s %s", UNLINK, mesh.registry["n1"]["public_key"])
    changed = mesh.node("n1").check_output("cat /etc/h2o/mesh.conf")
    check = mesh.site("--check", "--diff")
    assert check.code == 0, check.output
    told = planned(check.output)
    assert {line for line in told if not line.startswith("n3: ")} == {
        "n1: h2o: /etc/h2o/mesh.conf differs",
        "n1: h2o: h2o.service has not read /etc/h2o/mesh.conf",
        "n2: h2o: h2o.service does not run",
    }
    (peer,) = (line for line in told if line.startswith("n3: "))
    assert peer.startswith("n3: cjdns: ") and "n1" in peer
    assert "-# by hand" in check.output
    # It was only a plan.
    assert mesh.node("n1").check_output("cat /etc/h2o/mesh.conf") == changed
    assert mesh.node("n2").run("systemctl is-active --quiet h2o").rc != 0

    run = mesh.site()
    assert run.code == 0, run.output
    assert planned(run.output) == told
    assert all(run.changed[name] > 0 for name in NODES), run.output
    mesh.wait_for(lambda: "served by" in mesh.node("n2").run("curl -s -m 5 http://127.0.0.1/").stdout, "h2o of n2 serves")
    now = {name: mesh.pids(name) for name in NODES}
    assert {name: now[name]["cjdns"] for name in NODES} == {name: pids[name]["cjdns"] for name in NODES}
    assert now["n1"]["h2o"] == pids["n1"]["h2o"]
    again = mesh.site()
    assert (again.code, planned(again.output), set(again.changed.values())) == (0, set(), {0}), again.output


def test_a_run_limited_to_one_node_mends_it_and_takes_nothing_from_the_others(mesh):
    pids = {name: mesh.pids(name) for name in NODES}
    files = "sha256sum /etc/cjdroute.conf /etc/consul.d/*.json /etc/h2o/* /etc/dnsmasq-mesh/* /var/lib/vdloo-mesh/registry.json"
    before = {name: mesh.node(name).check_output(files) for name in NODES}
    mesh.node("n2").check_output("echo '# by hand' >> /etc/h2o/mesh.conf")
    mesh.node("n3").check_output("echo '# by hand' >> /etc/h2o/mesh.conf")
    touched = mesh.node("n3").check_output(files)
    try:
        run = mesh.site("--limit", "n2")
        assert run.code == 0, run.output
        assert set(run.changed) == {"n2"}, run.output
        assert mesh.node("n2").check_output(files) == before["n2"]
        assert (mesh.node("n1").check_output(files), mesh.node("n3").check_output(files)) == (before["n1"], touched)
        assert {name: mesh.pids(name) for name in NODES} == pids
        for source, target in (("n1", "n2"), ("n2", "n3"), ("n3", "n1")):
            mesh.wait_for(lambda source=source, target=target: mesh.pings(source, target), f"{source} pings {target}", 20)
        assert len(mesh.raft("n1")) == len(NODES)
    finally:
        assert mesh.site().code == 0
    assert mesh.node("n3").check_output(files) == before["n3"]
