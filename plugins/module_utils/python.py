# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Pythons of a node: which of them can run Ansible, and which wheels fit it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

# What the collection and this release of Ansible ask for; the newest Ansible that the collection was tried with.
OLDEST = (3, 11)
OLDEST_ANSIBLE = (2, 19)
BEYOND_ANSIBLE = (2, 23)
NAMES = ("python3.14", "python3.13", "python3.12", "python3.11")
SYSTEM = "/usr/bin/python3"
FOLDERS = "/usr/local/bin:/usr/bin:/bin"
ASK_S = 30
# Run by the Python in question. -I keeps the folder and the environment of whoever asks out of it.
QUESTION = """
import importlib.util, json, os, platform, struct, subprocess, sys, glob
def libc():
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return name + ".".join(version.split(".")[:2])
    except (AttributeError, ValueError, OSError):
        pass
    for loader in glob.glob("/lib/ld-musl-*.so.1"):
        said = subprocess.run([loader], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).stderr.decode()
        for line in said.splitlines():
            if line.startswith("Version "):
                return "musl" + ".".join(line.split()[1].split(".")[:2])
    return ""
def ansible():
    try:
        from ansible.release import __version__
        import jinja2, yaml
        return __version__
    except ImportError:
        return ""
arch = platform.machine()
if struct.calcsize("P") == 4:
    arch = {"x86_64": "i686", "aarch64": "armv7l", "armv8l": "armv7l"}.get(arch, arch)
print(json.dumps({
    "version": list(sys.version_info[:3]), "implementation": sys.implementation.name, "libc": libc(), "arch": arch,
    "venv": importlib.util.find_spec("venv") is not None, "ansible": ansible(),
}))
"""


def ask(path: str) -> dict | None:
    """Ask a Python what it is: {"path", "version", "implementation", "libc", "arch", "venv", "ansible"}; None for one that does not answer."""
    try:
        done = subprocess.run([path, "-I", "-c", QUESTION], stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False)
        return {"path": path, **json.loads(done.stdout)} if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def usable(found: dict) -> bool:
    return tuple(found["version"][:2]) >= OLDEST and found["implementation"] == "cpython"


def choose() -> tuple[dict | None, list[str]]:
    """Choose the Python that can run Ansible, the system's own before others: (what it is or None, what the others are)."""
    candidates = [SYSTEM, sys.executable, *(shutil.which(name, path=FOLDERS) for name in NAMES)]
    refused, seen = [], set()
    for path in candidates:
        real = os.path.realpath(path) if path else ""
        found = ask(path) if path and real not in seen else None
        seen.add(real)
        if found is None:
            continue
        if usable(found):
            return found, refused
        refused.append(f"{path} is {found['implementation']} {'.'.join(map(str, found['version'][:2]))}")
    return None, refused


def platform(found: dict) -> str:
    """Name the kind of node for which wheels are chosen, such as cp311-glibc2.36-x86_64; empty when its C library is not known."""
    major, minor = found["version"][:2]
    return f"cp{major}{minor}-{found['libc']}-{found['arch']}" if found["libc"] else ""


def has_ansible(found: dict) -> bool:
    """Tell whether this Python has an Ansible that the collection works with."""
    try:
        version = tuple(int(part) for part in found["ansible"].split(".")[:2])
    except ValueError:
        return False
    return OLDEST_ANSIBLE <= version < BEYOND_ANSIBLE
