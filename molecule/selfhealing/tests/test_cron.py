# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The crontab of nodes without systemd, read by a real cron. The node itself has systemd, whose part does nothing meanwhile."""

from __future__ import annotations

import pytest
import yaml
from helpers import last_run
from mesh import ROOT, playbook

NODE = "n2"
# Not the name that it has: on a node with systemd the run takes that away.
CRONTAB = "/etc/cron.d/vdloo-mesh-test"
ROLE = ROOT / "roles" / "converger"
# cron begins with the full minute, the run takes its jitter, and has the nodes to look at.
SOON = 120


@pytest.fixture
def crontab(mesh, nobody, tmp_path):
    node = mesh.node(NODE)
    node.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends cron")
    write = {
        "hosts": NODE,
        "gather_facts": False,
        "vars_files": [str(ROLE / path) for path in ("vars/main/main.yml", "vars/main/manifest.yml")],
        "tasks": [{"ansible.builtin.template": {"src": str(ROLE / "templates/cron.j2"), "dest": CRONTAB, "mode": "0644"}}],
    }
    path = tmp_path / "cron.yml"
    path.write_text(yaml.safe_dump([write]))
    run = playbook(mesh.inventory, path)
    assert run.code == 0, run.output
    node.check_output("systemctl start cron")
    yield node
    node.check_output("rm -f %s && systemctl disable --now cron", CRONTAB)


@pytest.mark.slow
def test_cron_begins_runs_by_the_clock(mesh, crontab):
    before = last_run(mesh, NODE).get("ended", "")

    def has_run() -> bool:
        told = last_run(mesh, NODE)
        return told["ended"] > before and told["reason"] == "timer" and told["outcome"] in ("converged", "changed")

    # The first one may find that another node has just done it.
    mesh.wait_for(has_run, "cron begins a run", 2 * SOON)
    assert "begun by timer" in crontab.check_output("journalctl -t vdloo-mesh-converge -o cat")
