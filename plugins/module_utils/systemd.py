# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What systemd says of units, and which files a running service has not read yet.

A handler is lost when a run is killed between the change of a file and the end of the play. Comparing the clocks of the
service and of its files makes up for that, as it judges by what is on the node and not by what a run did.
"""

from __future__ import annotations

import os
import re
import subprocess
import time

# The two clocks are read one after the other, on a machine that may be busy.
CLOCK_SLACK_S = 0.02
TIMEOUT_S = 15
PROPERTIES = (
    "ActiveState",
    "ActiveEnterTimestampMonotonic",
    "ExecMainStartTimestampMonotonic",
    "StateChangeTimestampMonotonic",
    "UnitFileState",
)
# What `systemctl is-enabled` is content with, and what outlives a reboot.
ENABLED = ("enabled", "static", "alias", "indirect", "generated")
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}\Z")


class SystemdError(Exception):
    """systemctl is missing, hangs or refuses."""


def run_command(argv: list[str]) -> tuple[int, str, str]:
    """Run a command and return (exit code, output, errors)."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False)
    except OSError as error:
        raise SystemdError(f"{argv[0]} cannot be run ({error.strerror}): a node that runs systemd is needed") from error
    except subprocess.TimeoutExpired as error:
        raise SystemdError(f"{' '.join(argv)} did not end within {TIMEOUT_S} s") from error
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def parse(text: str) -> list[dict[str, str]]:
    """Turn the output of `systemctl show` into one dictionary of properties for each unit, in the order that was asked for."""
    blocks = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in re.split(r"\n\s*\n", text))
    return [block for block in blocks if block]


def show(units: list[str], properties: tuple[str, ...], run=run_command) -> dict[str, dict[str, str]]:
    """Ask for the properties of many units in one call: {unit: {property: value}}. A unit that systemd does not know has values as well."""
    if not units:
        return {}
    rc, out, err = run(["systemctl", "show", "--no-pager", "--property", ",".join(properties), "--", *units])
    if rc != 0:
        raise SystemdError(f"systemctl show {' '.join(units)} failed: {err.strip() or out.strip()}")
    shown = parse(out)
    if len(shown) != len(units):
        raise SystemdError(f"systemctl show told of {len(shown)} units and not of {' '.join(units)}")
    return dict(zip(units, shown))


def read_since(properties: dict[str, str], reloads: bool, now: float, monotonic_now: float) -> float | None:
    """Tell when the service last read its files, in seconds since the epoch; None when it does not run.

    systemd's monotonic stamps are used: the wall clock of a machine without a battery jumps after boot.
    """
    if properties.get("ActiveState") not in ("active", "reloading"):
        return None
    stamps = [int(properties.get("ExecMainStartTimestampMonotonic") or 0), int(properties.get("ActiveEnterTimestampMonotonic") or 0)]
    # The earlier of the two: files are read between the start of the process and the moment it counts as active.
    started = min((stamp for stamp in stamps if stamp), default=0)
    if reloads:
        started = max(started, int(properties.get("StateChangeTimestampMonotonic") or 0))
    if not started:
        return None
    return now - (monotonic_now - started / 1e6)


def changed_at(path: str) -> float | None:
    """Tell when the content, owner or mode of a file changed, in seconds since the epoch; None for one that is not there.

    A link that was moved counts as a change too: what it leads to may be older than the service.
    """
    try:
        return max(os.lstat(path).st_ctime, os.stat(path).st_ctime)
    except OSError:
        return None


def stale_files(files: list[str], since: float | None) -> list[str]:
    """List the files that changed after `since` (seconds since the epoch)."""
    if since is None:
        return []
    changes = ((path, changed_at(path)) for path in files)
    return [path for path, changed in changes if changed is not None and changed > since + CLOCK_SLACK_S]


def clocks() -> tuple[float, float]:
    """Read the wall clock and the monotonic one, in seconds, for `judge`."""
    return time.time(), time.clock_gettime(time.CLOCK_MONOTONIC)


def judge(properties: dict[str, str], reads: dict[str, list[str]], now: float, monotonic_now: float) -> dict:
    """Tell of a service whether it runs and starts at boot, and which of its files it has not read.

    Takes {"restart": [paths], "reload": [paths]} and returns {"running", "enabled", "since", "restart", "reload"}; "since" is the start in
    seconds since the epoch, or None. A service that does not run is not stale: it reads all when it starts.
    """
    started = read_since(properties, False, now, monotonic_now)
    reloaded = read_since(properties, True, now, monotonic_now)
    return {
        "running": started is not None,
        "enabled": properties.get("UnitFileState") in ENABLED,
        "since": started,
        "restart": stale_files(reads["restart"], started),
        "reload": stale_files(reads["reload"], reloaded),
    }


def services(wanted: dict[str, dict[str, list[str]]], run=run_command) -> dict[str, dict]:
    """Judge many services with one call: {name: reads} to {name: what `judge` tells}."""
    shown = show(sorted(wanted), PROPERTIES, run)
    times = clocks()
    return {name: judge(shown[name], reads, *times) for name, reads in wanted.items()}
