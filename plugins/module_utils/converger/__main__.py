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

from ansible_collections.vdloo.mesh.plugins.module_utils.converger import config, run, status, turn

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
            return show(settings.state(status.FILE))
        if unknown:
            say(f"{arguments.config}: {', '.join(unknown)} is not known to this build, and not used")
        return converge(settings, arguments)
    except config.ConfigError as error:
        sys.stderr.write(f"{error}\n")
    except OSError as error:
        sys.stderr.write(f"vdloo-mesh-converge: {error}{': run it as root' if isinstance(error, PermissionError) else ''}\n")
    return WRONG


def show(path: str) -> int:
    try:
        say(status.show(status.load(path)).rstrip())
    except ValueError as error:
        raise config.ConfigError(f"{path} is damaged ({error}): the next run writes it anew") from error
    return GOOD


def converge(settings: config.Config, arguments: argparse.Namespace) -> int:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stopped.set())
    # So that nodes whose clocks agree do not all begin at once.
    if stopped.wait(random.uniform(0, arguments.jitter)):
        return FAILED
    try:
        with turn.taken(settings.run("lock"), arguments.reason) as descriptor:
            record = run.Run(settings, arguments.reason, stopped, say).work(descriptor)
    except turn.Busy as error:
        say(str(error))
        return GOOD
    say(status.show(record).rstrip())
    return GOOD if record["outcome"] in status.GOOD else FAILED


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "vdloo-mesh-converge",
        description="Converge the whole mesh from this node, unless another one is at it.",
        epilog="Exit codes: 0 converged, or stood down; 1 failed; 2 the settings or the call are wrong.",
    )
    parser.add_argument("--reason", choices=("timer", "event", "hand"), default="hand", help="what began this run (default: hand)")
    parser.add_argument("--jitter", type=jitter, default=0.0, metavar="SECONDS", help="wait for up to so long before it begins")
    parser.add_argument("--status", action="store_true", help="tell how the last run went, and do nothing else")
    parser.add_argument("--config", default=config.PATH, metavar="FILE", help=f"the settings (default: {config.PATH})")
    return parser.parse_args(argv)


def jitter(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 86400")
    return seconds


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
