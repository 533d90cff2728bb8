# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command line of vdloo-mesh-converge.

Exit codes: 0 the mesh is converged, or as far as this node can, or another one is at it; 1 that failed; 2 the settings or the call are wrong.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading

from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import config, events, hook_runner, membership, run, status, turn
from ansible_collections.vdloo.mesh.plugins.module_utils.registry import DNS_LABEL

GOOD, FAILED, WRONG = 0, 1, 2


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    # The playbook writes to the same place.
    sys.stdout.flush()


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    try:
        settings, unknown = config.load(arguments.config)
        if arguments.status:
            return show(settings)
        if unknown:
            say(f"{arguments.config}: {', '.join(unknown)} is not known to this build, and not used")
        stopped = listen()
        if arguments.hooks:
            return run_hooks(settings, membership.Event(arguments.hooks, arguments.about), stopped)
        return converge(settings, arguments, stopped)
    except config.ConfigError as error:
        sys.stderr.write(f"{error}\n")
    except OSError as error:
        sys.stderr.write(f"vdloo-mesh-converge: {error}{': run it as root' if isinstance(error, PermissionError) else ''}\n")
    return WRONG


def show(settings: config.Config) -> int:
    path = settings.state(status.FILE)
    try:
        say(status.show(status.load(path)).rstrip())
    except ValueError as error:
        raise config.ConfigError(f"{path} is damaged ({error}): the next run writes it anew") from error
    for line in hook_runner.failed(hook_runner.load(settings.state(hook_runner.FILE))):
        say(f"  {line}")
    return GOOD


def listen() -> threading.Event:
    """An event that is set when this process is asked to end."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stopped.set())
    return stopped


def converge(settings: config.Config, arguments: argparse.Namespace, stopped: threading.Event) -> int:
    # So that nodes whose clocks agree do not all begin at once.
    if stopped.wait(random.uniform(0, arguments.jitter)):
        return FAILED
    try:
        if arguments.reason == "event":
            record = events.Watcher(settings, stopped, say).work()
        else:
            with turn.taken(settings.run("lock"), arguments.reason) as descriptor:
                record = run.Run(settings, arguments.reason, stopped, say).work(descriptor)
    except turn.Busy as error:
        say(str(error))
        return GOOD
    if not record:
        return FAILED if stopped.is_set() else GOOD
    say(status.show(record).rstrip())
    return GOOD if record["outcome"] in status.GOOD else FAILED


def run_hooks(settings: config.Config, event: membership.Event, stopped: threading.Event) -> int:
    """Run what each node has for an event, as the one that has the lock asks all to do."""
    agent = client.Client(settings.consul_addr)
    try:
        members = membership.seen(agent.members(), {})
    except client.ClientError:
        members = {}
    finally:
        agent.close()
    alive = sum(state == membership.ALIVE for state in members.values())
    told = {"self": settings.node, "alive": alive, "minimum": settings.minimum_nodes, "members": members}
    runner = hook_runner.Runner(settings, config.require_programs(settings), told, lambda: status.STOPPED if stopped.is_set() else "", say)
    return GOOD if all(entry["outcome"] == hook_runner.OK for entry in runner.run_here(event)) else FAILED


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "vdloo-mesh-converge",
        description="Converge the whole mesh from this node, unless another one is at it.",
        epilog="Exit codes: 0 converged, or stood down; 1 failed; 2 the settings or the call are wrong.",
    )
    parser.add_argument("--reason", choices=("timer", "event", "hand"), default="hand", help="what began this run (default: hand)")
    parser.add_argument("--jitter", type=jitter, default=0.0, metavar="SECONDS", help="wait for up to so long before it begins")
    parser.add_argument("--status", action="store_true", help="tell how the last run went, and do nothing else")
    parser.add_argument("--hooks", choices=membership.EVENTS, metavar="EVENT", help="run what this node has for the event, as all nodes do")
    parser.add_argument("--about", default="", type=name, metavar="NODE", help="with --hooks, the node that has joined or left")
    parser.add_argument("--config", default=config.PATH, metavar="FILE", help=f"the settings (default: {config.PATH})")
    return parser.parse_args(argv)


def name(text: str) -> str:
    # An empty one is nobody's.
    if text and not DNS_LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a node")
    return text


def jitter(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 86400")
    return seconds


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
