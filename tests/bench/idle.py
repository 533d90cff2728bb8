# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a mesh costs in which nothing happens: idle.py [--minutes N] [NODES]

Boots the nodes, converges them once, and leaves them alone, each with the default period. Counted are, per node and hour,

    CPU seconds   of each daemon; of the node's own runs, which are children of its init once they have ended; of what it is asked by the runs
                  of others, children of its sshd
    bytes         received and sent by the node's network card: all links of the overlay, encrypted, with all that goes through them

Nothing may be changed meanwhile, and every node must be alive at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import converge
import measure

PERIOD_S = 900
PROGRAM = "vdloo-mesh-converge"
# What runs all the time, by its unit.
UNITS = {
    "cjdns": "cjdns",
    "consul": "consul",
    "mesh-names": "mesh-names",
    "dnsmasq": "dnsmasq-mesh",
    "h2o": "h2o",
    "asked by others": "ssh",
}
LABELS = (*UNITS, "own runs")
# The connections of the run that sets the nodes up are to be over when the count begins: what their sshd did counts when they end.
SSH_ARGS = "-o ControlMaster=auto -o ControlPersist=10s -o PreferredAuthentications=publickey"
TICKS_S = os.sysconf("SC_CLK_TCK")


def topology(size: int) -> dict:
    wanted = converge.topology(size)
    del wanted["vars"]["converger_enabled"]
    return {**wanted, "name": "idle"}


def cpu_seconds(bed: converge.Nodes, name: str, pid: str) -> tuple[float, float]:
    """CPU seconds of a process, and of its children that have ended."""
    fields = bed.run(name, "cat", f"/proc/{pid}/stat").rpartition(")")[2].split()
    own, children = (sum(map(int, fields[first : first + 2])) / TICKS_S for first in (11, 13))
    return own, children


def sample(bed: converge.Nodes, name: str) -> dict[str, float]:
    """The counters of a node: CPU seconds by what used them, and bytes."""
    card = next(line.split() for line in bed.run(name, "cat", "/proc/net/dev").splitlines() if line.strip().startswith("eth0:"))
    pids = {label: bed.run(name, "systemctl", "show", "-p", "MainPID", "--value", unit).strip() for label, unit in UNITS.items()}
    return {
        **{label: sum(cpu_seconds(bed, name, pid)) for label, pid in pids.items()},
        "own runs": cpu_seconds(bed, name, "1")[1],
        "received": int(card[1]),
        "sent": int(card[9]),
    }


def outcomes(bed: converge.Nodes, name: str, since: float) -> list[str]:
    """How the node's own runs ended, as its journal tells."""
    text = bed.run(name, "journalctl", "-u", PROGRAM, f"--since=@{since:.0f}", "-o", "cat", "--no-pager")
    return [line.split(": ", 1)[1].split(",")[0] for line in text.splitlines() if line.startswith(f"{name}: ") and ", begun by " in line]


def bench(size: int, minutes: float) -> dict:
    def say(text: str) -> None:
        print(f"{size} nodes, {text}", file=sys.stderr)

    with converge.nodes(topology(size)) as bed, tempfile.TemporaryDirectory(prefix="vdloo-mesh-bench-") as folder:
        site = converge.Runs(bed, Path(folder), None)
        site.environment["ANSIBLE_SSH_ARGS"] = SSH_ARGS
        say(f"cold: {site.site()['seconds']} s")
        site.settle()
        # The first ticks come within two minutes.
        time.sleep(150)
        before, since, start = {name: sample(bed, name) for name in bed.containers}, time.time(), time.monotonic()
        say(f"left alone for {minutes:g} minutes")
        time.sleep(minutes * 60)
        after, hours = {name: sample(bed, name) for name in bed.containers}, (time.monotonic() - start) / 3600
        ended = {name: outcomes(bed, name, since) for name in bed.containers}
    others = [name for name, told in ended.items() if set(told) - {"converged", "stood down"}]
    if others:
        raise RuntimeError(f"runs of {', '.join(others)} did not find the mesh converged: {ended}")
    nodes = {}
    for name in before:
        spent = {key: (after[name][key] - before[name][key]) / hours for key in before[name]}
        spent["sum"] = sum(spent[label] for label in LABELS)
        nodes[name] = {
            "cpu_s": {label: spent[label] for label in (*LABELS, "sum")},
            "mib": {way: spent[way] / 2**20 for way in ("received", "sent")},
            "runs": ended[name],
        }
    return {"minutes": minutes, "per_node_and_hour": nodes}


def mean(nodes: dict, kind: str, key: str) -> float:
    return round(statistics.mean(node[kind][key] for node in nodes.values()), 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench idle", description="Measure a mesh in which nothing happens.")
    parser.add_argument("size", nargs="?", type=int, default=5, metavar="NODES", help="how many nodes; default: 5")
    parser.add_argument("--minutes", type=float, default=2 * PERIOD_S / 60, metavar="N", help="for how long; default: two periods")
    arguments = parser.parse_args()
    if not 2 <= arguments.size <= converge.MAXIMUM:
        parser.error(f"NODES is a number from 2 to {converge.MAXIMUM}")
    if arguments.minutes <= 0:
        parser.error("--minutes is a number above 0")
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(143))
    try:
        found = bench(arguments.size, arguments.minutes)
    except RuntimeError as error:
        sys.exit(str(error))
    nodes = found["per_node_and_hour"]
    result = {
        "measured_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": measure.machine(),
        "versions": measure.versions("ansible-core"),
        "mean": {
            **{f"cpu_s {label}": mean(nodes, "cpu_s", label) for label in (*LABELS, "sum")},
            **{f"mib {way}": mean(nodes, "mib", way) for way in ("received", "sent")},
        },
        **found,
    }
    path = measure.write("idle", result)
    head = ["node", *(f"{label}, CPU s" for label in (*LABELS, "sum")), "received, MiB", "sent, MiB", "converged", "stood down"]
    rows = [
        [
            name,
            *(f"{value:.1f}" for value in node["cpu_s"].values()),
            *(f"{node['mib'][way]:.2f}" for way in ("received", "sent")),
            *(str(node["runs"].count(outcome)) for outcome in ("converged", "stood down")),
        ]
        for name, node in nodes.items()
    ]
    print(measure.table(head, rows))
    print(f"\nPer node and hour, over {found['minutes']:g} minutes; the last two columns are counts.")
    print(f"All figures: {path.relative_to(converge.ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
