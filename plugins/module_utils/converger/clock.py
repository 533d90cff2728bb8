# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two clocks: one to measure with, one to show."""

from __future__ import annotations

import datetime
import time


def seconds() -> float:
    """Seconds since the machine was started. Unlike time.monotonic() it goes on while the machine sleeps, as the sessions of Consul do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> str:
    """UTC as in 2026-01-02T03:04:05Z."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(text: str) -> float | None:
    """How many seconds ago that was, in UTC as now() tells it; below 0 for what is to come, None for what is no time."""
    try:
        then = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
    return (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()
