# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run of ansible-playbook, which ends when it must."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import on_disk
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import bound, config, processes

POLL_S = 0.3
GRACE_S = 10.0
CALLBACK = "vdloo.mesh.summary"
# The namespace, the name, plugins, module_utils, converger and this file are below it.
COLLECTIONS_ABOVE = 7


class Ended(typing.NamedTuple):
    """How it ended."""

    code: int  # of ansible-playbook, negative for a signal
    cause: str  # why it was ended, empty when it ended by itself
    summary: dict  # as the callback plugin vdloo.mesh.summary writes it, empty when there is none


def run(settings: config.Config, program: str, arguments: list[str], turn: int, watch: typing.Callable[[], str]) -> Ended:
    """Run the playbook of the settings; its output goes where that of this process goes.

    `turn` is a descriptor that it keeps open. It is ended once `watch` returns why.
    """
    summary = settings.run("summary")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(summary)
    process = subprocess.Popen(
        [
            *(sys.executable, "-IS", bound.__file__, str(os.getpid())),
            *(program, "-i", settings.inventory, *arguments, settings.playbook),
        ],
        stdin=subprocess.DEVNULL,
        env=environment(settings, summary),
        cwd="/",
        start_new_session=True,
        pass_fds=(turn,),
    )
    cause = ""
    try:
        while process.poll() is None and not cause:
            cause = watch()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0 if cause else POLL_S)
    finally:
        if process.returncode is None:
            processes.end(process, GRACE_S)
    if process.returncode != 0 and not cause:
        # systemd tells all processes of a unit at once, and the playbook may be the first to end.
        cause = watch()
    found = read_summary(summary)
    # A run that ended by itself in the moment in which it was to be ended is whole.
    return Ended(process.returncode, "" if found.get("ended") else cause, found)


def environment(settings: config.Config, summary: str = "") -> dict[str, str]:
    """What ansible-playbook is given: what this process was, but for what would make another Python or another Ansible of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON", "VDLOO_MESH_SUMMARY"))}
    return {
        "HOME": pwd.getpwuid(os.getuid()).pw_dir,
        **kept,
        "PATH": config.search_path(),
        # Ansible refuses any other encoding.
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": settings.ansible_cfg,
        "ANSIBLE_COLLECTIONS_PATH": collections_path(__file__),
        **({"ANSIBLE_CALLBACKS_ENABLED": CALLBACK, "VDLOO_MESH_SUMMARY": summary} if summary else {}),
    }


def collections_path(path: str) -> str:
    """The folder that this collection is installed in. A link to it is resolved, so that the whole run has one build."""
    path = os.path.abspath(path)
    for _level in range(COLLECTIONS_ABOVE):
        path = os.path.dirname(path)
    return os.path.realpath(path)


def read_summary(path: str) -> dict:
    try:
        return on_disk.read_object(path) or {}
    except ValueError:
        return {}
