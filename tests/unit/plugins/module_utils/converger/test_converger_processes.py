# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Processes that end when they must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import bound, clock, playbook, processes

SLEEPER = "import time; time.sleep(600)"
# A child in a session of its own, as a worker of Ansible is, that does not listen to SIGTERM.
FAMILY = f"""
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEPER}"],
                         start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
{SLEEPER}
"""


def start(code):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_ends_by_itself_when_asked_is_not_waited_for():
    process = start(f"print(1, flush=True); {SLEEPER}")
    process.stdout.readline()
    begun = clock.seconds()
    processes.end(process, 30)
    assert process.returncode == -signal.SIGTERM
    assert clock.seconds() - begun < 10


def test_what_does_not_listen_is_killed_though_it_left_the_group(wait_for):
    process = start(FAMILY)
    child = int(process.stdout.readline())
    assert child in processes.descendants(process.pid)
    processes.end(process, 0.5)
    wait_for(lambda: not is_alive(child), 5)
    assert process.returncode == -signal.SIGTERM


def test_a_process_that_has_ended_already_is_no_error():
    process = start("")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    processes.end(process, 1)
    assert process.returncode == 0


def test_a_bound_command_ends_with_whoever_started_it(wait_for):
    code = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-IS", {bound.__file__!r}, str(os.getpid()), sys.executable, "-c", {SLEEPER!r}])
print(child.pid, flush=True)
{SLEEPER}
"""
    process = start(code)
    child = int(process.stdout.readline())
    wait_for(
        lambda: SLEEPER in Path(f"/proc/{child}/cmdline").read_text() and bound.__file__ not in Path(f"/proc/{child}/cmdline").read_text()
    )
    process.kill()
    process.wait()
    wait_for(lambda: not is_alive(child), 5)


@pytest.mark.parametrize(
    ("parent", "program", "code"), [("1", "/bin/true", 1), ("mine", "/nowhere/program", bound.NOT_FOUND), ("mine", "/bin/true", 0)]
)
def test_a_bound_command_is_not_started_without_its_starter(parent, program, code):
    given = str(os.getpid()) if parent == "mine" else parent
    done = subprocess.run([sys.executable, "-IS", bound.__file__, given, program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr == ("/nowhere/program: No such file or directory\n" if code == bound.NOT_FOUND else "")


def test_the_collection_is_the_one_that_the_program_is_of_with_its_link_resolved(tmp_path):
    inner = (
        tmp_path / "collection" / "0123456789abcdef" / "ansible_collections" / "vdloo" / "mesh" / "plugins" / "module_utils" / "converger"
    )
    inner.mkdir(parents=True)
    (tmp_path / "current").symlink_to("collection/0123456789abcdef")
    path = tmp_path / "current" / "ansible_collections/vdloo/mesh/plugins/module_utils/converger/playbook.py"
    assert playbook.collections_path(str(path)) == str(tmp_path / "collection" / "0123456789abcdef")
