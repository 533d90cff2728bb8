# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run of site.yml costs, next to `ansible -m ping` over the same nodes: converge.py [--mitogen] [--rounds N] [NODES...]

For each number of nodes, that many containers boot, and are removed at the end whatever happens. Measured are

    cold          the first run, over bare nodes that have the binaries; once
    ping          `ansible -m ping`: what it takes Ansible to ask each node one thing
    noop          site.yml over the converged mesh
    one_drifted   site.yml after somebody edited one file on one node
    mitogen       noop with Mitogen's strategy (only with --mitogen)

All but the first in turns, round by round, with the same ansible.cfg and connections that are open before. Remote calls are counted
by the callback in tests/callbacks.

Every no-op run has to change nothing and restart nothing, and every run over a drifted node has to mend that file and touch no other node.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import typing
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import docker
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import measure
import mesh
import mitogen_venv
import testbed

SIZES = (3, 10, 25)
ROUNDS = 5
MAXIMUM = 60
BUDGET = 1.5
# A converged mesh may need a second look before nothing is left to do, but not more.
SETTLING_RUNS = 2
SITES = ("cloud", "home", "office", "attic")
DRIFTED_FILE = "/etc/h2o/mesh.conf"
KINDS = ("ping", "noop", "one_drifted")
# Not the peak memory: the kernel hands down that of this program, which holds more than Ansible does.
FIGURES = ("seconds", "cpu_seconds")
BIN = Path(sys.executable).parent


# ---------------------------------------------------------------- the nodes


def topology(size: int) -> dict:
    """`size` nodes on four sites. Every third has no endpoint and only dials out, as behind NAT."""
    nodes = {}
    for number in range(1, size + 1):
        listens = {} if number % 3 == 0 else {"listens": {"lan": "public"}}
        nodes[f"n{number:02}"] = {"networks": ["lan"], **listens, "vars": {"mesh_site": SITES[number % len(SITES)]}}
    return {
        "name": "bench",
        "networks": {"lan": {}},
        "nodes": nodes,
        # Runs of the nodes' own would be measured as well.
        "vars": {"h2o_routes": [{"service": "web", "port": 8080}], "converger_enabled": False},
    }


class Nodes:
    """The nodes of a running test bed, looked at without Ansible and SSH."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        engine = docker.from_env()
        hosts = yaml.safe_load(inventory.read_text())["mesh"]["hosts"]
        self.containers = {name: engine.containers.get(host["testbed_container"]) for name, host in hosts.items()}

    def run(self, name: str, *command: str) -> str:
        code, output = self.containers[name].exec_run(list(command))
        if code != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {code} on {name} and said:\n{output.decode()}")
        return output.decode()

    def processes(self) -> dict[str, str]:
        """Main process and start of every daemon of every node, which a restart would change."""
        query = ("systemctl", "show", "-p", "Id,MainPID,ExecMainStartTimestampMonotonic,NRestarts", *mesh.DAEMONS)
        return {name: self.run(name, *query) for name in self.containers}


@contextlib.contextmanager
def nodes(wanted: dict) -> Iterator[Nodes]:
    """Boot the bare nodes of a topology; they live as long as the block."""
    bed = testbed.Testbed(wanted)
    # Standard output is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            bed.down()
            bed.up()
            yield Nodes(bed.directory / "hosts.yml")
        finally:
            bed.down()


# ---------------------------------------------------------------- the runs


class Runs:
    """Measured runs of Ansible over the nodes, and the checks of what they did."""

    def __init__(self, nodes: Nodes, folder: Path, mitogen: mitogen_venv.Mitogen | None) -> None:
        self.nodes, self.folder, self.mitogen = nodes, folder, mitogen
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "VDLOO_MESH_"))},
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }

    def ping(self) -> dict:
        return self._run([str(BIN / "ansible"), "-i", str(self.nodes.inventory), "mesh", "-m", "ping"], self.environment)

    def site(self) -> dict:
        """Run site.yml; the figures come with `calls`, {host: remote calls}, and `changed`, {host: changed tasks}."""
        calls, output = self.folder / "calls.json", self.folder / "output"
        counting = {"ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callbacks"), "VDLOO_MESH_CALLS": str(calls)}
        figures = self._site(BIN, {**self.environment, **counting}, output)
        counted = json.loads(calls.read_text())["hosts"]
        return {**figures, "calls": {name: host["calls"] for name, host in counted.items()}}

    def _site(self, programs: Path, environment: dict[str, str], output: Path) -> dict:
        command = [str(programs / "ansible-playbook"), "-i", str(self.nodes.inventory), str(ROOT / "site.yml")]
        figures = self._run(command, environment, output)
        changed = {name: count for name, count in mesh.changes(output.read_text()).items() if name in self.nodes.containers}
        if set(changed) != set(self.nodes.containers):
            raise RuntimeError(f"the run left out {', '.join(sorted(set(self.nodes.containers) - set(changed)))}")
        return {**figures, "changed": changed}

    def _run(self, command: list[str], environment: dict[str, str], output: Path | None = None) -> dict:
        figures = measure.run(command, environment, self.folder, output)
        return {figure: figures[figure] for figure in FIGURES}

    def settle(self) -> int:
        """Run until a run changes nothing; return how many runs that took, the last one included."""
        for number in range(1, SETTLING_RUNS + 1):
            changed = self.site()["changed"]
            if not any(changed.values()):
                return number
        raise RuntimeError(f"run {SETTLING_RUNS} after the first still changed something: {changing(changed)}")

    def noop(self) -> dict:
        return self._unchanged(self.site)

    def with_mitogen(self) -> dict:
        environment = {**self.environment, **self.mitogen.environment}
        return self._unchanged(lambda: self._site(self.mitogen.programs, environment, self.folder / "output"))

    def _unchanged(self, run: typing.Callable[[], dict]) -> dict:
        before = self.nodes.processes()
        figures = run()
        if any(figures["changed"].values()):
            raise RuntimeError(f"a run over the converged mesh changed something: {changing(figures['changed'])}")
        restarted = [name for name, processes in self.nodes.processes().items() if processes != before[name]]
        if restarted:
            raise RuntimeError(f"a run over the converged mesh restarted daemons on {', '.join(restarted)}")
        return figures

    def one_drifted(self, name: str) -> dict:
        digest = self.nodes.run(name, "sha256sum", DRIFTED_FILE)
        self.nodes.run(name, "sh", "-c", f"echo '# edited by hand' >>{DRIFTED_FILE}")
        figures = self.site()
        if self.nodes.run(name, "sha256sum", DRIFTED_FILE) != digest:
            raise RuntimeError(f"the run did not mend {DRIFTED_FILE} on {name}")
        if [host for host, count in figures["changed"].items() if count] != [name]:
            raise RuntimeError(f"{name} alone had drifted, and the run changed {changing(figures['changed'])}")
        return {**figures, "node": name}


def changing(changed: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in changed.items() if count) or "nothing"


def bench(size: int, count: int, mitogen: mitogen_venv.Mitogen | None) -> dict:
    """Measure everything over `size` nodes, in `count` rounds; return {"cold", "settling_runs", "rounds", "median"}."""

    def say(text: str) -> None:
        print(f"{size} nodes, {text}", file=sys.stderr)

    with nodes(topology(size)) as bed, tempfile.TemporaryDirectory(prefix="vdloo-mesh-bench-") as folder:
        runs = Runs(bed, Path(folder), mitogen)
        cold = runs.site()
        say(f"cold: {cold['seconds']} s")
        settling = runs.settle()
        kinds: dict[str, typing.Callable[[int], dict]] = {
            "ping": lambda _number: runs.ping(),
            "noop": lambda _number: runs.noop(),
            "one_drifted": lambda number: runs.one_drifted(list(bed.containers)[number % size]),
        }
        without = None
        if mitogen:
            try:
                runs.with_mitogen()
                kinds["mitogen"] = lambda _number: runs.with_mitogen()
            except RuntimeError as error:
                without = mitogen.refusal(str(error))
                say(without)
        # Opens what is not open yet; not measured.
        runs.ping()
        names, found = list(kinds), []
        for number in range(count):
            found.append({})
            # Nobody is always the first.
            for kind in names[number % len(names) :] + names[: number % len(names)]:
                found[-1][kind] = kinds[kind](number)
                say(f"round {number + 1} of {count}, {kind}: {found[-1][kind]['seconds']} s")
    median = {kind: {figure: middle(one[kind][figure] for one in found) for figure in FIGURES} for kind in names}
    result = {"cold": cold, "settling_runs": settling, "rounds": found, "median": median}
    return {**result, "mitogen": without} if without else result


def middle(values: typing.Iterable[float]) -> float:
    return round(statistics.median(values), 3)


def most_calls(size: dict, kind: str) -> int:
    """The most remote calls that a node got in a round."""
    return max(count for one in size["rounds"] for count in one[kind]["calls"].values())


# ---------------------------------------------------------------- the result


def keep(result: dict, size: int, found: dict) -> None:
    """Put the figures of one size into the result."""
    result["sizes"][size] = found
    median = found["median"]
    seconds = {"cold": found["cold"]["seconds"], **{kind: median[kind]["seconds"] for kind in median}}
    for kind, value in seconds.items():
        result["seconds"].setdefault(kind, {})[size] = value
    for kind in set(median) - {"ping"}:
        result["ratios"].setdefault(f"{kind}_vs_ping", {})[size] = round(seconds[kind] / seconds["ping"], 3)
    for kind in ("noop", "one_drifted"):
        result["calls_per_node"].setdefault(kind, {})[size] = most_calls(found, kind)


def report(result: dict) -> str:
    kinds = ["cold", *KINDS, *(["mitogen"] if "mitogen" in result["seconds"] else [])]
    ratios = [f"{kind}_vs_ping" for kind in kinds if f"{kind}_vs_ping" in result["ratios"]]
    head = [
        "nodes",
        *(f"{kind.replace('_', ' ')}, s" for kind in kinds),
        *(ratio.replace("_vs_", " to ").replace("_", " ") for ratio in ratios),
    ]
    rows = [
        [
            str(size),
            *(f"{value:.1f}" if (value := result["seconds"][kind].get(size)) is not None else "-" for kind in kinds),
            *(f"{value:.2f}" if (value := result["ratios"][ratio].get(size)) is not None else "-" for ratio in ratios),
            *(str(result["calls_per_node"][kind][size]) for kind in ("noop", "one_drifted")),
        ]
        for size in result["sizes"]
    ]
    return measure.table([*head, "noop calls", "drifted calls"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench converge", description="Measure site.yml next to `ansible -m ping`.")
    parser.add_argument("sizes", nargs="*", type=int, metavar="NODES", help=f"how many nodes; default: {', '.join(map(str, SIZES))}")
    parser.add_argument("--mitogen", action="store_true", help="also run with Mitogen's strategy, where it supports this ansible-core")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"how many rounds; default: {ROUNDS}")
    arguments = parser.parse_args()
    sizes = arguments.sizes or list(SIZES)
    if any(not 1 <= size <= MAXIMUM for size in sizes):
        parser.error(f"NODES is a number from 1 to {MAXIMUM}")
    if arguments.rounds < 1:
        parser.error("--rounds is a number from 1 on")
    # Ended by a signal, it removes the nodes all the same.
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(143))
    result: dict = {
        "measured_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": measure.machine(),
        "versions": measure.versions("ansible-core", "jinja2", "pyyaml"),
        "command": "ansible-playbook site.yml",
        "sizes": {},
        "ratios": {},
        "calls_per_node": {},
        "seconds": {},
    }
    mitogen = mitogen_venv.install() if arguments.mitogen else None
    if mitogen:
        result["versions"]["mitogen"] = mitogen_venv.VERSION
    for size in sizes:
        try:
            keep(result, size, bench(size, arguments.rounds, mitogen))
        except RuntimeError as error:
            sys.exit(f"{size} nodes: {error}")
        # What was measured stays, also when a later size fails.
        path = measure.write("converge", result)
    print(report(result))
    ratios = result["ratios"]["noop_vs_ping"]
    missed = [size for size in sizes if ratios[size] > BUDGET]
    kept = f"MISSED with {', '.join(map(str, missed))} nodes" if missed else "kept"
    print(f"\nBudget: a run that changes nothing takes at most {BUDGET} times the ping; {kept}.")
    for size in sizes:
        if "mitogen" in result["sizes"][size]:
            print(f"{size} nodes: {result['sizes'][size]['mitogen']}")
    print(f"All rounds: {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
