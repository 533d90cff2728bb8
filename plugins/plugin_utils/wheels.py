# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The wheels from which a node makes an Ansible of its own, gathered on the controller, so that the node needs no internet.

They are chosen for the Python, the C library and the processor of the node, which its key names: `cp311-glibc2.36-x86_64-1a2b3c4d`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import typing
from pathlib import Path

from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.plugin_utils import memory

# Where a node that converges the mesh itself has its own.
OWN = Path("/opt/vdloo-mesh/wheels")
# pip as Debian keeps it, for venvs.
DEBIAN = Path("/usr/share/python-wheels")
KEY = re.compile(r"cp(?P<major>\d)(?P<minor>\d+)-(?P<libc>glibc|musl)(?P<libc_major>\d+)\.(?P<libc_minor>\d+)-(?P<arch>\w+)-[0-9a-f]+\Z")
# The oldest C libraries that wheels are made for, by processor; 17 for all others.
OLDEST_GLIBC = {"x86_64": 5, "i686": 5}
NAMED = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
PIP_S = 600
# Nodes of one kind share the result, also when it is none.
REMEMBERED_S = 300
REASON_CHARS = 120
UNREACHED = re.compile(r"Retrying|Connection|Temporary failure|timed out|ReadTimeout|SSLError|ProxyError")


class WheelsError(Exception):
    """Why there are no wheels, and what to do. `lasting` tells that it will be the same next time, unless something is changed."""

    def __init__(self, message: str, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


def archive(key: str, requirements: list[str], folder: str = "", cache: Path | None = None) -> Path:
    """Gather the wheels for nodes of one kind and return them as a tar archive. Raises WheelsError.

    They come from a folder of the user where one is given, else from what is kept from before, or, last, from the index that pip is set up with.
    """
    found = KEY.match(key)
    if found is None:
        raise WheelsError(f"{key!r} names no Python and C library that wheels exist for", lasting=True)
    given = Path(folder).expanduser() if folder else None
    cache = cache or memory.default_path().parent / "wheels"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = cache / f"{key}{'-' + _state(given) if given else ''}.tar"
    with files.locked(str(cache / f".{key}.lock"), PIP_S):
        if path.is_file():
            return path
        handed = sorted((OWN / key).glob("*.whl"))
        if handed and not given:
            _pack(handed, path)
            return path
        failed = path.with_suffix(".failed")
        _repeat(failed)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as staged:
            try:
                _download(found.groupdict(), requirements, given, Path(staged))
            except WheelsError as error:
                failed.write_text(json.dumps({"at": time.time(), "text": str(error), "lasting": error.lasting}))
                raise
            _pack(sorted(Path(staged).glob("*.whl")), path)
    return path


def _state(folder: Path) -> str:
    """Name what is in a folder of the user. Raises WheelsError when there is none."""
    if not folder.is_absolute():
        raise WheelsError(f"converger_wheels is {folder}: give the absolute path of a folder on the machine that runs Ansible")
    try:
        entries = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in folder.glob("*.whl"))
    except OSError as error:
        raise WheelsError(f"converger_wheels {folder} cannot be read: {error.strerror}") from error
    if not entries:
        raise WheelsError(f"converger_wheels {folder} has no wheels: fill it with pip download, or leave the variable empty")
    return hashlib.sha256(repr((str(folder), entries)).encode()).hexdigest()[:8]


def _repeat(failed: Path) -> None:
    """Raise anew what was found out a moment ago."""
    try:
        known = json.loads(failed.read_text())
        if time.time() - known["at"] < REMEMBERED_S:
            raise WheelsError(known["text"], known["lasting"])
    except (OSError, ValueError, KeyError, TypeError):
        return


def _pack(wheels: list[Path], path: Path) -> None:
    """Make the archive, whole or not at all; wheels are compressed already."""
    staged = path.with_suffix(".new")
    with tarfile.open(staged, "w") as packed:
        for wheel in wheels:
            packed.add(wheel, wheel.name, recursive=False)
    staged.replace(path)


def library(texts: dict[str, str], cache: Path | None = None) -> Path:
    """Pack the sources of a pure library, {path: text}, as an archive of their own."""
    cache = cache or memory.default_path().parent / "wheels"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as opened:
        for name, text in sorted(texts.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o644
            opened.addfile(member, io.BytesIO(text.encode()))
    path = cache / "library.tar"
    files.write(str(path), packed.getvalue(), 0o600)
    return path


def _download(target: dict[str, str], requirements: list[str], given: Path | None, into: Path) -> None:
    options = ["download", "--quiet", "--disable-pip-version-check", "--no-input", "--dest", str(into), "--only-binary", ":all:"]
    options += ["--implementation", "cp", "--python-version", f"{target['major']}.{target['minor']}"]
    options += [word for name in platforms(target) for word in ("--platform", name)]
    # Wheels alone do not install themselves: a node may have Python without pip.
    wanted = [*requirements, "pip"]
    where = ["--no-index", "--find-links", str(given)] if given else ["--retries", "1"]
    environment = {name: value for name, value in os.environ.items() if not (given and name.startswith("PIP_"))}
    if given:
        environment["PIP_CONFIG_FILE"] = os.devnull
    try:
        done = subprocess.run(
            [*pip(), *options, *where, *wanted],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PIP_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WheelsError(f"pip could not be run on the machine that runs Ansible: {error}") from error
    if done.returncode != 0:
        raise _explained(target, done.stderr, given)


def _explained(target: dict[str, str], said: str, given: Path | None) -> WheelsError:
    errors = [line.partition("ERROR:")[2].strip() for line in said.splitlines() if line.startswith("ERROR:")]
    reason = (errors or said.strip().splitlines() or ["pip says nothing"])[0]
    reason = reason if len(reason) <= REASON_CHARS else f"{reason[:REASON_CHARS]}..."
    kind = f"Python {target['major']}.{target['minor']} with {target['libc']} {target['libc_major']}.{target['libc_minor']} on {target['arch']}"
    if given:
        return WheelsError(
            f"converger_wheels {given} lacks wheels for {kind} ({reason}): fill it with those of ansible-core, its needs, and pip"
        )
    if UNREACHED.search(said):
        return WheelsError(
            f"the wheels for {kind} could not be fetched ({reason}): let the machine that runs Ansible reach its package index once, "
            "or give a folder of wheels as converger_wheels"
        )
    return WheelsError(
        f"there are no wheels for {kind} ({reason}): give a folder of your own wheels as converger_wheels, or install the distribution's "
        "ansible-core there where it is 2.19 or later",
        lasting=True,
    )


def platforms(target: dict[str, str]) -> list[str]:
    """All platform tags whose wheels run with a C library, the newest first."""
    newest, arch = int(target["libc_minor"]), target["arch"]
    if target["libc"] == "musl":
        return [f"musllinux_{target['libc_major']}_{minor}_{arch}" for minor in range(newest, -1, -1)]
    names = []
    for minor in range(newest, OLDEST_GLIBC.get(arch, 17) - 1, -1):
        names.append(f"manylinux_{target['libc_major']}_{minor}_{arch}")
        if minor in NAMED:
            names.append(f"{NAMED[minor]}_{arch}")
    return names


def pip() -> list[str]:
    """How pip is run here: as a module, or out of its own wheel where Ansible's Python has none. Raises WheelsError."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    kept: typing.Iterable[Path] = [*sorted(OWN.glob("*/pip-*.whl")), *sorted(DEBIAN.glob("pip-*.whl"))]
    for wheel in kept:
        return [sys.executable, f"{wheel}/pip"]
    raise WheelsError(
        f"{sys.executable} has no pip to fetch wheels with: install pip there, or give a folder of wheels as converger_wheels"
    )
