# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the benchmarks share: one measured run of a program, and the file that keeps what came out."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"


def run(command: list[str], environment: dict[str, str], folder: Path, output: Path | None = None) -> dict[str, float]:
    """Run a program to its end; return its wall time and CPU time in seconds and its peak memory in MiB.

    `output` is a file for what it prints, which is thrown away otherwise. Raises RuntimeError with all that the program said when it fails, or
    says anything on standard error: a warning is work that the others do not do.
    """
    with (folder / "stderr").open("w+") as stderr, (output or Path(os.devnull)).open("w") as stdout:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            _pid, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            # Ended by a signal: the program must not go on alone.
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        said = stderr.read()
    if process.returncode != 0 or said:
        # Its last lines say how it ended.
        said += "".join(output.read_text().splitlines(keepends=True)[-60:]) if output else ""
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} and said:\n{said}")
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
    }


def machine() -> dict:
    """What a figure depends on: the size of this machine, and what else it does."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions(*packages: str) -> dict[str, str]:
    return {"python": platform.python_version(), **{package: importlib.metadata.version(package) for package in packages}}


def write(name: str, result: dict) -> Path:
    """Keep a result as tests/bench/results/NAME.json, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    staged = path.with_suffix(".new")
    staged.write_text(json.dumps(result, indent=2) + "\n")
    staged.replace(path)
    return path


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, as docs/benchmarks.md has it."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths)] for row in [head, *rows]]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
