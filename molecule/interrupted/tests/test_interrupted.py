# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that is killed at any moment and started again ends where an undisturbed one does."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from mesh import ENVIRONMENT, ROOT

NODES = ("n1", "n2", "n3")

# Where the first run is killed: after the first line of output that follows the task's title. Each run gets further than the one before.
MOMENTS = [
    "vdloo.mesh.node : Found the mesh",
    "vdloo.mesh.cjdns : Give the node its identity",
    "vdloo.mesh.cjdns : Install the configuration",
    "vdloo.mesh.consul : Write the files that Consul itself has found valid",
    "vdloo.mesh.consul : Enable and start the agent",
    "vdloo.mesh.dnsmasq : Hand the host's resolver over",
    "vdloo.mesh.h2o : Write the files, once h2o has found them valid",
]


def run_until(inventory, moment: str) -> bool:
    """Run site.yml and kill it, with all its children, when the first host has finished `moment`. Tell whether that moment came."""
    process = subprocess.Popen(
        [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(inventory), str(ROOT / "site.yml")],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    reached = False
    for line in process.stdout:
        if reached and line.startswith(("ok:", "changed:")):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        if line.startswith(("TASK", "RUNNING")):
            reached = moment in line
    process.wait()
    return False


def test_check_mode_of_a_new_mesh_tells_what_would_be_done_and_does_nothing(mesh):
    run = mesh.site("--check", "--diff")
    assert run.code == 0, run.output
    assert all(run.changed[name] > 0 for name in NODES), run.output
    for name in NODES:
        assert (
            mesh.node(name).run("ls -d /etc/cjdns /etc/vdloo-mesh /etc/consul.d /etc/h2o /etc/dnsmasq-mesh /etc/cjdroute.conf").stdout == ""
        )


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_is_killed(mesh, moment):
    assert run_until(mesh.inventory, moment), f"the run never came to: {moment}"
    # Whatever was half done: no node is without DNS, and no file is half written.
    for name in NODES:
        other = mesh.hosts["n2" if name == "n1" else "n1"]
        assert mesh.node(name).run("getent ahostsv4 %s", other["testbed_container"]).rc == 0
        assert mesh.node(name).run("test ! -e /etc/cjdns/identity.json || python3 -m json.tool /etc/cjdns/identity.json").rc == 0
        assert mesh.node(name).run("test ! -e /etc/cjdroute.conf || cjdroute --cleanconf < /etc/cjdroute.conf").rc == 0


def test_the_next_run_converges(mesh):
    identities = [mesh.node(name).check_output("sha256sum /etc/cjdns/identity.json") for name in NODES]
    run = mesh.site()
    assert run.code == 0, run.output
    assert [mesh.node(name).check_output("sha256sum /etc/cjdns/identity.json") for name in NODES] == identities
    for source in NODES:
        for target in NODES:
            mesh.wait_for(lambda source=source, target=target: mesh.pings(source, target), f"{source} pings {target}", 30)
    mesh.wait_for(lambda: all(mesh.members(name) == dict.fromkeys(NODES, "alive") for name in NODES), "all members are alive")
    raft = mesh.raft("n1")
    assert sorted(state for state, _voter in raft.values()) == ["follower", "follower", "leader"]
    for name in NODES:
        assert mesh.node(name).run("curl -s -m 5 -o /dev/null http://127.0.0.1/").rc == 0


def test_the_run_after_that_changes_nothing(mesh):
    before = {name: mesh.pids(name) for name in NODES}
    run = mesh.site()
    assert run.code == 0, run.output
    assert set(run.changed.values()) == {0}, run.output
    assert {name: mesh.pids(name) for name in NODES} == before
