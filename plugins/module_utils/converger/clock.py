# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two clocks: one to measure with, one to show."""

from __future__ import annotations

import datetime
import time

FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def seconds() -> float:
    """Seconds since the machine was started. Unlike time.monotonic() it goes on while the machine sleeps, as the sessions of Consul do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> str:
    """UTC as in 2026-01-02T03:04:05Z."""
    return datetime.datetime.now(datetime.timezone.utc).strftime(FORMAT)


def between(earlier: object, later: object) -> float | None:
    """How many seconds lie between two times as now() tells them; below 0 for the wrong order, None where one is no time."""
    try:
        ends = [datetime.datetime.strptime(text, FORMAT) for text in (earlier, later)]
    except (TypeError, ValueError):
        return None
    return (ends[1] - ends[0]).total_seconds()


def age(text: object) -> float | None:
    """How many seconds ago that was, as between() tells it."""
    return between(text, now())
