# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What users of a service notice when something dies: failover.py [--rounds N] [CASE...]

Five nodes: a service on three of them, two that are asked for it. Under a steady load through h2o, one thing dies at a time:

    instance   the process of one instance
    node       the node of one instance
    leader     Consul's leader, the process
    ingress    the h2o that is asked; the client knows a second one
    agent      the Consul agent of the node that is asked

and is started again before the next. Counted are the requests that failed, and the seconds until all is well:

    instance, node   until no node's DNS has the address of the dead any more
    leader           until a node knows of the new leader
    ingress          until it takes requests again
    agent            for how long DNS on its node had no answer for the service

Before that, wrk measures how many requests a second h2o hands on, next to an nginx that is a plain proxy on the same node.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import converge
import load
import measure
import yaml

HERE = Path(__file__).resolve().parent
CASES = ("instance", "node", "leader", "ingress", "agent")
ROUNDS = 5
ASKED, SECOND = "n01", "n05"
SERVING = ("n02", "n03", "n04")
NAME = "web.service.consul"
RATE = 100
# The fault comes this long after the load has begun, and the load goes on for the other time.
BEFORE_S, AFTER_S = 3, 22
# Nothing may be found wrong any more after this long.
PATIENCE_S = 60
# How long the mesh is left alone after what was dead is back.
REST_S = 5
WRK_S, WRK_CONNECTIONS, WRK_ROUNDS = 5, 32, 3
# What wrk asks: where the instance is, and how it is asked for.
PATHS = {
    "near": ("/near", "the instance runs on the node that is asked"),
    "far": ("/", "the instances are one hop away, through the overlay"),
}
BUDGETS = {"instance": 5.0, "node": 15.0}
LOST_BUDGET = 1.0


def topology() -> dict:
    wanted = converge.topology(5)
    for options in wanted["nodes"].values():
        options["listens"] = {"lan": "public"}
    return {
        **wanted,
        "name": "failover",
        "groups": {"web": list(SERVING), "local": [ASKED]},
        "vars": {**wanted["vars"], "h2o_routes": [{"service": "web", "port": 8080}, {"path": "/near", "service": "near", "port": 8080}]},
    }


class Watcher:
    """What a node's own DNS and Consul agent say, as it changes."""

    def __init__(self, container: str) -> None:
        self.seen: list[dict] = []
        program = (HERE / "watch_names.py").read_text()
        command = ["docker", "exec", "-i", container, "python3", "-c", program, NAME]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.seen.append(json.loads(line))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def state(self) -> dict:
        return self.seen[-1] if self.seen else {"at": 0.0, "addresses": None, "leader": None}

    def since(self, moment: float) -> list[dict]:
        """What was so at a moment, and all that came after it."""
        before = [entry for entry in self.seen if entry["at"] <= moment]
        return before[-1:] + [entry for entry in self.seen if entry["at"] > moment]


class Bed:
    """The mesh with the service on it."""

    def __init__(self, nodes: converge.Nodes) -> None:
        self.nodes = nodes
        hosts = yaml.safe_load(nodes.inventory.read_text())["mesh"]["hosts"]
        self.underlay = {name: host["ansible_host"] for name, host in hosts.items()}
        registry = json.loads(nodes.run(ASKED, "cat", "/var/lib/vdloo-mesh/registry.json"))
        self.address = {name: record["address"] for name, record in registry.items()}
        self.watchers: dict[str, Watcher] = {}

    def watch(self, name: str) -> None:
        self.watchers[name] = Watcher(self.nodes.containers[name].name)

    def leader(self) -> str:
        # On a busy machine there is none for a moment.
        watcher = self.watchers[ASKED]
        wait_for(lambda: bool(watcher.state()["leader"]), f"{ASKED} knows a leader")
        at = watcher.state()["leader"].rpartition(":")[0].strip("[]")
        return next(name for name, address in self.address.items() if address == at)

    def stop(self, name: str, unit: str) -> None:
        """Let the process of a unit die as in a crash, and not be started again."""
        self.nodes.run(name, "systemctl", "kill", "--signal=KILL", unit)
        self.nodes.run(name, "systemctl", "stop", unit)

    def start(self, name: str, unit: str) -> None:
        self.nodes.run(name, "systemctl", "start", unit)

    def settled(self) -> bool:
        """Whether every node knows all instances and a leader."""
        wanted = sorted(self.address[name] for name in SERVING)
        states = [watcher.state() for watcher in self.watchers.values()]
        return all(state["addresses"] == wanted and state["leader"] for state in states)


def wait_for(condition: typing.Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)


# ---------------------------------------------------------------- what dies


class Fault(typing.NamedTuple):
    """What was done: what puts it right, and the seconds until all was well, seen from a node or a client."""

    victim: str
    mend: typing.Callable[[], None]
    seconds: typing.Callable[[float, list[load.Outcome]], list[float]]


def instance(bed: Bed) -> Fault:
    victim = random.choice(SERVING)
    bed.stop(victim, "nginx")
    return Fault(victim, lambda: bed.start(victim, "nginx"), lambda moment, _outcomes: until_gone(bed, victim, moment))


def node(bed: Bed) -> Fault:
    victim = random.choice([name for name in SERVING if name != bed.leader()])
    container = bed.nodes.containers[victim]
    bed.watchers.pop(victim).stop()
    container.kill()

    def mend() -> None:
        container.start()
        wait_for(lambda: container.exec_run(["systemctl", "is-active", "consul"]).exit_code == 0, f"{victim} boots")
        bed.watch(victim)

    return Fault(victim, mend, lambda moment, _outcomes: until_gone(bed, victim, moment))


def leader(bed: Bed) -> Fault:
    victim = bed.leader()
    bed.stop(victim, "consul")
    return Fault(victim, lambda: bed.start(victim, "consul"), lambda moment, _outcomes: until_led(bed, victim, moment))


def ingress(bed: Bed) -> Fault:
    # It comes back by itself.
    bed.nodes.run(SECOND, "systemctl", "kill", "--signal=KILL", "h2o")
    return Fault(SECOND, lambda: None, lambda moment, outcomes: until_answering(bed.underlay[SECOND], moment, outcomes))


def agent(bed: Bed) -> Fault:
    bed.stop(ASKED, "consul")
    return Fault(ASKED, lambda: bed.start(ASKED, "consul"), lambda moment, _outcomes: [silence(bed.watchers[ASKED].since(moment), moment)])


def until_gone(bed: Bed, victim: str, moment: float) -> list[float]:
    """For each node that is alive, how long its DNS had the address of the victim after the fault."""
    found = []
    for name, watcher in bed.watchers.items():
        had = [entry for entry in watcher.since(moment) if entry["addresses"] is None or bed.address[victim] in entry["addresses"]]
        after = [entry["at"] for entry in watcher.since(moment) if had and entry["at"] > had[-1]["at"]]
        if name != victim and not after:
            raise RuntimeError(f"{name} still has the address of {victim} at the end of the load")
        found.append(round(max(0.0, after[0] - moment), 3) if after else 0.0)
    return found


def until_led(bed: Bed, victim: str, moment: float) -> list[float]:
    """For each other node, how long after the fault it knew of the leader that stayed."""
    found = []
    for name, watcher in bed.watchers.items():
        if name == victim:
            continue
        without = [entry for entry in watcher.since(moment) if not entry["leader"] or bed.address[victim] in entry["leader"]]
        after = [entry["at"] for entry in watcher.since(moment) if without and entry["at"] > without[-1]["at"]]
        if not after:
            raise RuntimeError(f"{name} knows of no new leader at the end of the load")
        found.append(round(after[0] - moment, 3))
    return found


def until_answering(host: str, moment: float, outcomes: list[load.Outcome]) -> list[float]:
    """How long after the fault an ingress answered the first request that began after it."""
    passed = [outcome for outcome in outcomes if outcome.begun > moment and outcome.via != host]
    answered = [outcome for outcome in outcomes if passed and outcome.begun > passed[-1].begun and outcome.via == host and outcome.ok]
    if passed and not answered:
        raise RuntimeError(f"{host} does not answer at the end of the load")
    return [round(answered[0].begun - moment, 3) if passed else 0.0]


def silence(seen: list[dict], moment: float) -> float:
    """For how long a node's DNS had no answer for the name after the fault, in seconds."""
    quiet = [entry for entry in seen if not entry["addresses"]]
    if not quiet:
        return 0.0
    after = [entry["at"] for entry in seen if entry["at"] > quiet[-1]["at"]]
    if not after:
        raise RuntimeError("DNS has no answer at the end of the load")
    return round(after[0] - max(moment, quiet[0]["at"]), 3)


FAULTS: dict[str, typing.Callable[[Bed], Fault]] = {
    "instance": instance,
    "node": node,
    "leader": leader,
    "ingress": ingress,
    "agent": agent,
}


# ---------------------------------------------------------------- the rounds


def strike(bed: Bed, case: str) -> dict:
    """One round: {"victim", "seconds": [...], "requests", "lost", "why": {text: count}}."""
    wait_for(bed.settled, f"all nodes know the {len(SERVING)} instances and a leader")
    time.sleep(REST_S)
    ingresses = [bed.underlay[SECOND], bed.underlay[ASKED]] if case == "ingress" else [bed.underlay[ASKED]]
    running = load.Load(ingresses, "/", RATE, BEFORE_S + AFTER_S)
    time.sleep(BEFORE_S)
    moment = time.monotonic()
    fault = FAULTS[case](bed)
    try:
        outcomes = running.outcomes()
        found = fault.seconds(moment, outcomes)
    finally:
        fault.mend()
    lost = [outcome for outcome in outcomes if not outcome.ok]
    why: dict[str, int] = {}
    for outcome in lost:
        why[outcome.said] = why.get(outcome.said, 0) + 1
    return {"victim": fault.victim, "seconds": found, "requests": len(outcomes), "lost": len(lost), "why": why}


def summed(rounds: list[dict]) -> dict:
    """What the rounds of a case come to: {p50_s, p95_s, max_s, lost_per_1000}."""
    seconds = sorted(value for one in rounds for value in one["seconds"])
    return {
        "p50_s": round(statistics.median(seconds), 2),
        "p95_s": seconds[max(0, -(-95 * len(seconds) // 100) - 1)],
        "max_s": seconds[-1],
        "lost_per_1000": round(1000 * sum(one["lost"] for one in rounds) / sum(one["requests"] for one in rounds), 2),
    }


def requests_per_second(url: str) -> float:
    command = ["wrk", "--threads", "2", "--connections", str(WRK_CONNECTIONS), "--duration", f"{WRK_S}s", url]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: .*", said)
    if errors:
        raise RuntimeError(f"{' '.join(command)}: {errors.group(0)}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))


def throughput(bed: Bed, say: typing.Callable[[str], None]) -> dict:
    """Requests a second, in turns: {"near": {"h2o": [...], "nginx": [...]}, "far": ...}."""
    found: dict = {place: {"h2o": [], "nginx": []} for place in PATHS}
    for number in range(WRK_ROUNDS):
        for place, (path, _what) in PATHS.items():
            for program, port in (("h2o", 80), ("nginx", 8090))[:: -1 if number % 2 else 1]:
                found[place][program].append(requests_per_second(f"http://{bed.underlay[ASKED]}:{port}{path}"))
                say(f"{program}, {place}: {found[place][program][-1]:.0f} requests/s")
    return found


@contextlib.contextmanager
def mesh(say: typing.Callable[[str], None]) -> Iterator[Bed]:
    with converge.nodes(topology()) as nodes, tempfile.TemporaryDirectory(prefix="vdloo-mesh-bench-") as folder:
        runs = converge.Runs(nodes, Path(folder), None)
        say(f"cold: {runs.site()['seconds']} s")
        bed = Bed(nodes)
        extra = json.dumps({"bench_addresses": bed.address})
        command = [str(converge.BIN / "ansible-playbook"), "-i", str(nodes.inventory), str(HERE / "failover.yml"), "-e", extra]
        measure.run(command, runs.environment, Path(folder), Path(folder) / "output")
        for name in nodes.containers:
            bed.watch(name)
        try:
            yield bed
        finally:
            for watcher in bed.watchers.values():
                watcher.stop()


def report(result: dict) -> str:
    rows = [
        [
            case,
            *(f"{result[case][key]:.2f}" for key in ("p50_s", "p95_s", "max_s", "lost_per_1000")),
            str(sum(one["requests"] for one in result["rounds"][case])),
        ]
        for case in result["cases"]
    ]
    text = measure.table(["what dies", "p50, s", "p95, s", "max, s", "lost of 1,000", "requests"], rows)
    if "requests_per_second" in result:
        rows = [
            [
                place,
                *(f"{statistics.median(figures[program]):.0f}" for program in ("h2o", "nginx")),
                f"{result['ratios']['rps_vs_nginx'][place]:.2f}",
            ]
            for place, figures in result["requests_per_second"].items()
        ]
        text += "\n\n" + measure.table(["instance", "h2o, requests/s", "nginx, requests/s", "h2o to nginx"], rows)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench failover", description="Measure what users notice when something dies.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"what dies; default: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"how often each; default: {ROUNDS}")
    parser.add_argument("--no-wrk", action="store_true", help="leave the requests per second out")
    arguments = parser.parse_args()
    cases = arguments.cases or list(CASES)
    strangers = sorted(set(cases) - set(CASES))
    if strangers:
        parser.error(f"there is no case {', '.join(strangers)}: it is {', '.join(CASES)}")
    if arguments.rounds < 1:
        parser.error("--rounds is a number from 1 on")
    if not arguments.no_wrk and not shutil.which("wrk"):
        parser.error("wrk is missing: install it (Debian and Ubuntu: apt-get install wrk), or say --no-wrk")
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(143))

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    result: dict = {
        "measured_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": measure.machine(),
        "versions": measure.versions("ansible-core"),
        "rate": RATE,
        "cases": [],
        "rounds": {},
        "ratios": {},
    }
    try:
        with mesh(say) as bed:
            wait_for(bed.settled, "all nodes know all instances and a leader")
            if not arguments.no_wrk:
                result["requests_per_second"] = throughput(bed, say)
                result["ratios"]["rps_vs_nginx"] = {
                    place: round(statistics.median(figures["h2o"]) / statistics.median(figures["nginx"]), 3)
                    for place, figures in result["requests_per_second"].items()
                }
            for case in cases:
                rounds = []
                for number in range(arguments.rounds):
                    rounds.append(strike(bed, case))
                    say(f"{case}, round {number + 1} of {arguments.rounds}: {json.dumps(rounds[-1])}")
                result["rounds"][case] = rounds
                result[case] = summed(rounds)
                result["cases"].append(case)
                # What was measured stays, also when a later case fails.
                path = measure.write("failover", result)
    except RuntimeError as error:
        sys.exit(str(error))
    print(report(result))
    missed = [
        f"{case} (p95 {result[case]['p95_s']:g} s)" for case, budget in BUDGETS.items() if case in cases and result[case]["p95_s"] > budget
    ]
    missed += [f"{case} ({result[case]['lost_per_1000']:g} lost)" for case in cases if result[case]["lost_per_1000"] > LOST_BUDGET]
    kept = f"MISSED by {', '.join(missed)}" if missed else "kept"
    print(f"\nBudgets: an instance is out of DNS within 5 s and a node within 15 s (p95), at most 1 request in 1,000 is lost; {kept}.")
    print(f"All rounds: {path.relative_to(converge.ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
