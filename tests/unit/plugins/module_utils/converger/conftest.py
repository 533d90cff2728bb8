# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Consul agents and the program itself, both as real processes, with a script in the place of ansible-playbook."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client

ROOT = Path(__file__).resolve().parents[5]
# As on a node: nothing but Python's own library, and the collection.
PROGRAM = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("ansible_collections.vdloo.mesh.plugins.module_utils.converger", run_name="__main__", alter_sys=True)
"""
# Notes what it was called with, and ends when the test has said how.
ANSIBLE_PLAYBOOK = """\
#!/bin/sh
[ ! -e "$0.deaf" ] || trap "" TERM
echo "$@" >>"$0.calls"
env >"$0.env"
echo "$$" >>"$0.pids"
until [ -e "$0.end" ]; do sleep 0.1; done
[ ! -e "$0.summary" ] || cp "$0.summary" "$VDLOO_MESH_SUMMARY"
exit "$(cat "$0.end")"
"""


def until(condition, seconds=15):
    """Return what is true at last."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
    return found


@pytest.fixture
def wait_for():
    """Wait until a condition holds, for so many seconds: wait_for(condition, seconds=15)."""
    return until


class Agent:
    """A Consul agent on an address of its own out of 127/8."""

    PORTS = {"http": 8500, "server": 8300, "serf_lan": 8301, "serf_wan": -1, "dns": -1, "grpc": -1, "https": -1}

    def __init__(self, binary, folder, name, address, **settings):
        self.binary, self.folder, self.address, self.name = binary, folder / name, address, name
        self.addr = f"http://{address}:8500"
        self.process = None
        config = {
            "datacenter": "mesh",
            "node_name": name,
            "server": True,
            "data_dir": str(self.folder / "data"),
            "bind_addr": address,
            "client_addr": address,
            "ports": self.PORTS,
            "session_ttl_min": "1s",
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "log_level": "warn",
            **settings,
        }
        self.folder.mkdir()
        (self.folder / "agent.json").write_text(json.dumps(config))

    def start(self):
        with open(self.folder / "log", "ab") as log:
            command = [self.binary, "agent", "-config-file", str(self.folder / "agent.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self

    def stop(self, number=signal.SIGKILL):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    @property
    def client(self):
        return client.Client(self.addr)

    def leader(self):
        try:
            return self.client.leader()
        except client.ClientError:
            return ""

    def is_registered(self):
        return any(node["Node"] == self.name for node in self.client.get("/v1/catalog/nodes").value)

    def alive(self):
        try:
            return {member["Name"] for member in self.client.members() if member["Status"] == 1}
        except client.ClientError:
            return set()


@pytest.fixture
def agents(tmp_path):
    """A function that makes an agent that is stopped in the end."""
    binary = ROOT / ".cache" / "consul" if (ROOT / ".cache" / "consul").exists() else shutil.which("consul")
    if not binary:
        pytest.skip("there is no Consul: script/node-image puts one into .cache")
    made = []
    net = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"

    def make(name, **settings):
        made.append(Agent(str(binary), tmp_path, name, f"{net}.{len(made) + 1}", **settings))
        return made[-1]

    yield make
    for agent in made:
        agent.stop()


@pytest.fixture
def agent(agents):
    """A mesh of one agent, which leads."""
    made = agents("c1", bootstrap_expect=1).start()
    until(made.leader, 30)
    # Before that it can have no session.
    until(made.is_registered, 30)
    return made


class Node:
    """A node with the program, and with a script in the place of ansible-playbook."""

    def __init__(self, folder, name, consul_addr, **settings):
        self.name, self.folder = name, folder / f"node-{name}"
        for path in (self.folder, self.folder / "state", self.folder / "run"):
            path.mkdir()
        self.playbook = self.folder / "ansible-playbook"
        self.playbook.write_text(ANSIBLE_PLAYBOOK)
        self.playbook.chmod(0o755)
        for file in ("ansible.cfg", "mesh.yml"):
            (self.folder / file).write_text("")
        self.settings = {
            "node": name,
            "period_s": 60,
            "lock_ttl_s": 10,
            "island_after_s": 60,
            "consul_addr": consul_addr,
            "ansible_playbook": str(self.playbook),
            "ansible_cfg": str(self.folder / "ansible.cfg"),
            "inventory": str(self.folder / "mesh.yml"),
            "playbook": "vdloo.mesh.site",
            "timeout_s": 120,
            "state_dir": str(self.folder / "state"),
            "run_dir": str(self.folder / "run"),
            **settings,
        }
        self.config = self.folder / "converger.json"
        self.config.write_text(json.dumps(self.settings))
        self.processes = []
        self.will_end()

    def will_end(self, code=0, **hosts):
        """Let the playbook end at once with this exit code, having told of these hosts; each is the counts of one."""
        counts = {name: {"ok": 1, "changed": 0, "failed": 0, "unreachable": 0, **count} for name, count in hosts.items()}
        failures = [{"host": name, "task": "T", "msg": "no"} for name, count in counts.items() if count["failed"]]
        told = {"started": "s", "ended": "e", "hosts": counts, "failures": failures, "plan": []}
        self._beside("summary").write_text(json.dumps(told))
        self._beside("end").write_text(str(code))

    def will_go_on(self, deaf=False):
        """Let the playbook go on until will_end() or, unless it is deaf, a signal."""
        self._beside("end").unlink(missing_ok=True)
        if deaf:
            self._beside("deaf").touch()

    def start(self, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", PROGRAM, str(ROOT / "collections"), "--config", str(self.config), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments):
        """Run the program; return its exit code and its output."""
        process = self.start(*arguments)
        output = process.communicate(timeout=90)[0]
        return process.returncode, output

    @property
    def playing(self):
        """The process ids of the playbooks that go on."""
        return [int(pid) for pid in self._text("pids").split() if self._is_mine(pid)]

    def is_playing(self):
        return bool(self.playing)

    def _is_mine(self, pid):
        try:
            return str(self.playbook) in Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return False

    @property
    def calls(self):
        return self._text("calls").splitlines()

    @property
    def environment(self):
        return dict(line.split("=", 1) for line in self._text("env").splitlines() if "=" in line)

    @property
    def record(self):
        return json.loads((self.folder / "state" / "last-run.json").read_text())

    def _beside(self, ending):
        return self.playbook.with_name(f"{self.playbook.name}.{ending}")

    def _text(self, ending):
        return self._beside(ending).read_text() if self._beside(ending).exists() else ""

    def close(self):
        for process in self.processes:
            process.kill()
        for pid in self.playing:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.communicate()


@pytest.fixture
def nodes(tmp_path):
    """A function that makes a node; what it runs is ended in the end."""
    made = []

    def make(name, consul_addr="127.0.0.1:1", **settings):
        made.append(Node(tmp_path, name, consul_addr, **settings))
        return made[-1]

    yield make
    for node in made:
        node.close()
