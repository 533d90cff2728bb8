# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The venvs with Ansible on a node. A venv holds its own path, so it is made in its place and counts only with a note that is written last."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import files, on_disk, versioned_folder

DIRECTORY = "/opt/vdloo-mesh/venv"
NOTE = "complete.json"
PROGRAM = "bin/ansible-playbook"
LIBRARY = "consul_kv"
IMPORTS = "import ansible.release, jinja2, yaml"
CHECK_S = 60
MAKE_S = 900
# For an Ansible of the distribution, whose own program is bound to another Python than the venv's.
SCRIPT = """#!{python}
import sys
from ansible.cli.playbook import main
sys.exit(main())
"""


class VenvError(Exception):
    """Why there is no Ansible in a venv; the message says what failed."""


def sound(folder: str) -> str:
    """Tell the key of a venv that is whole and runs; empty for any other, and where there is none."""
    try:
        key = str((on_disk.read_object(os.path.join(folder, NOTE)) or {}).get("key", ""))
    except ValueError:
        return ""
    try:
        # Without its folder of modules, as after an upgrade of the distribution's Python, nothing can be imported.
        works = key and _run([os.path.join(folder, "bin", "python3"), "-I", "-c", IMPORTS], CHECK_S).returncode == 0
    except VenvError:
        return ""
    return key if works and os.access(os.path.join(folder, PROGRAM), os.X_OK) else ""


def current(base: str) -> str:
    """Tell the key of the venv in use; empty when none is, or it does not run."""
    name = versioned_folder.current(base)
    return sound(os.path.join(base, name)) if name else ""


def make(base: str, key: str, python: str, wheels: str, requirements: typing.Sequence[str], system: bool) -> str:
    """Make a venv, prove that its Ansible runs, and let the link lead to it; return its path. The lock of `base` is held.

    `wheels` is the folder that has all that is installed. With `system` the Python has Ansible, and only the library that is in `wheels`
    is added. Raises VenvError; what was used before stays in use then.
    """
    # The one in use may be running this, also when it is damaged.
    name = next(name for name in (key, f"{key}-2") if name != versioned_folder.current(base))
    path = os.path.join(base, name)
    shutil.rmtree(path, ignore_errors=True)
    try:
        _fill(path, python, wheels, requirements, system)
        said = _succeed([os.path.join(path, PROGRAM), "--version"], CHECK_S)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    files.write(os.path.join(path, NOTE), (json.dumps({"key": key, "ansible": said.splitlines()[0]}) + "\n").encode(), 0o644)
    versioned_folder.switch(base, name)
    versioned_folder.prune(base, name)
    return path


def _fill(path: str, python: str, wheels: str, requirements: typing.Sequence[str], system: bool) -> None:
    _succeed([python, "-I", "-m", "venv", "--without-pip", *(["--system-site-packages"] if system else []), path], MAKE_S)
    own = os.path.join(path, "bin", "python3")
    if system:
        library = os.path.join(wheels, LIBRARY)
        if os.path.isdir(library):
            modules = _succeed([own, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], CHECK_S).strip()
            shutil.copytree(library, os.path.join(modules, LIBRARY))
        files.write(os.path.join(path, PROGRAM), SCRIPT.format(python=own).encode(), 0o755)
        return
    pip = sorted(name for name in os.listdir(wheels) if name.startswith("pip-") and name.endswith(".whl"))
    if not pip:
        raise VenvError(f"{wheels} has no wheel of pip")
    options = [
        "--no-index",
        "--find-links",
        wheels,
        "--no-compile",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
    ]
    _succeed([own, os.path.join(wheels, pip[-1], "pip"), "install", *options, *requirements], MAKE_S)


def _succeed(argv: list[str], timeout: float) -> str:
    done = _run(argv, timeout)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise VenvError(f"{' '.join(argv[:4])} ... failed with code {done.returncode}: {said[-600:]}")
    return done.stdout.decode("utf-8", "replace")


def _run(argv: list[str], timeout: float) -> subprocess.CompletedProcess:
    # Settings of pip or Python that root has on this node are meant for other things.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "ANSIBLE_"))}
    environment.update(PIP_CONFIG_FILE=os.devnull, LC_ALL="C.UTF-8")
    try:
        return subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise VenvError(f"{' '.join(argv[:4])} ... did not end within {timeout:g} s") from error
    except OSError as error:
        raise VenvError(f"{argv[0]} cannot be run: {error.strerror}") from error
