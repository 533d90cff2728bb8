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
EVENT = "vdloo-mesh-event.service"
PATH = "vdloo-mesh-event.path"
# What lets a service do nothing, and still take away the word that began it.
HOLD = "[Service]\\nExecStart=\\nExecStart=/bin/true\\n"
H2O = "/etc/h2o/mesh.conf"
LAST = "/var/lib/vdloo-mesh/last-run.json"


def last_run(mesh, name: str) -> dict:
    found = mesh.node(name).run("cat %s", LAST)
    return json.loads(found.stdout) if found.rc == 0 else {}


def run_by_hand(mesh, name: str) -> tuple[int, dict]:
    done = mesh.node(name).run("%s --reason hand", PROGRAM)
    return done.rc, last_run(mesh, name)


def edit_file(node):
    node.check_output("echo '# edited by hand' >>%s", H2O)
    return lambda: node.run("grep -c edited %s", H2O).stdout.strip() == "0"


def hold(mesh, *names: str, services: tuple[str, ...] = (SERVICE, EVENT)) -> None:
    """Let no run of these nodes begin. Their timers and paths go on: one that stands still is mended, too."""
    for name in names:
        for service in services:
            place = f"/etc/systemd/system/{service}.d"
            mesh.node(name).check_output("mkdir -p %s && printf %s >%s/hold.conf", place, HOLD, place)
        # Who only waits for quiet, or to look a second time, need not be waited for.
        mesh.node(name).check_output("systemctl daemon-reload; ! flock -n /run/vdloo-mesh-converge.lock true || systemctl stop %s", EVENT)
    idle = "systemctl show -p ActiveState --value %s"
    mesh.wait_for(
        lambda: all(mesh.node(name).check_output(idle, service) in ("inactive", "failed") for name in names for service in services),
        "no run goes on",
        180,
    )


def let_go(mesh, *names: str, services: tuple[str, ...] = (SERVICE, EVENT)) -> None:
    for name in names:
        for service in services:
            mesh.node(name).check_output("rm -f /etc/systemd/system/%s.d/hold.conf", service)
        mesh.node(name).check_output("systemctl daemon-reload")
