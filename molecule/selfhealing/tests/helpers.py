# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tests of this scenario share."""

from __future__ import annotations

import json

NODES = ("n1", "n2", "n3", "n4", "n5")
PERIOD = 40
JITTER = 5
# The run itself, with all nodes on one small machine.
WORK = 60
PROGRAM = "vdloo-mesh-converge"
TIMER = "vdloo-mesh-converge.timer"
SERVICE = "vdloo-mesh-converge.service"
HOLD = f"/etc/systemd/system/{SERVICE}.d"
H2O = "/etc/h2o/mesh.conf"
LAST = "/var/lib/vdloo-mesh/last-run.json"


def last_run(mesh, name: str) -> dict:
    found = mesh.node(name).run("cat %s", LAST)
    return json.loads(found.stdout) if found.rc == 0 else {}


def run_by_hand(mesh, name: str) -> tuple[int, dict]:
    done = mesh.node(name).run("%s --reason hand", PROGRAM)
    return done.rc, last_run(mesh, name)


def hold(mesh, *names: str) -> None:
    """Let no run of these nodes begin. Their timers go on: a timer that stands still is mended, too."""
    for name in names:
        mesh.node(name).check_output(
            "mkdir -p %s && printf '[Service]\\nExecCondition=/bin/false\\n' >%s/hold.conf && systemctl daemon-reload", HOLD, HOLD
        )
    idle = "systemctl show -p ActiveState --value %s"
    mesh.wait_for(
        lambda: all(mesh.node(name).check_output(idle, SERVICE) in ("inactive", "failed") for name in names), "no run goes on", 180
    )


def let_go(mesh, *names: str) -> None:
    for name in names:
        mesh.node(name).check_output("rm -f %s/hold.conf && systemctl daemon-reload", HOLD)


def edit_file(node):
    node.check_output("echo '# edited by hand' >>%s", H2O)
    return lambda: node.run("grep -c edited %s", H2O).stdout.strip() == "0"
