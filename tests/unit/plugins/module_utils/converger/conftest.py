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
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import lock

ROOT = Path(__file__).resolve().parents[5]
# As on a node: nothing but Python's own library, and the collection.
PROGRAM = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
{before}
runpy.run_module("ansible_collections.vdloo.mesh.plugins.module_utils.converger", run_name="__main__", alter_sys=True)
"""
# For a test that waits until Consul frees a lock: the least times of Consul, and not those of the program.
HURRIED = """
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import config, lock
lock.DELAY_S, lock.REST_S = 1, 4.0
config._CHECKS["lock_ttl_s"] = config._number(1, config.MOST_TTL_S, whole=True)
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

    def is_as_new(self):
        """Empty it, and say whether that was possible: a lock that was taken away from somebody rests for a while."""
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            for session in self.client.get("/v1/session/list").value:
                self.client.put("/v1/session/destroy/" + session["ID"])
            self.client.request("DELETE", "/v1/kv/vdloo-mesh/", {"recurse": ""})
            probe = self.client.put("/v1/session/create", b"{}")["ID"]
            is_free = self.client.put(lock.KEY, b"", {"acquire": probe})
            self.client.put(lock.KEY, b"", {"release": probe})
            self.client.put("/v1/session/destroy/" + probe)
            self.client.request("DELETE", lock.KEY)
        except client.ClientError:
            return False
        return is_free

    def alive(self):
        try:
            return {member["Name"] for member in self.client.members() if member["Status"] == 1}
        except client.ClientError:
            return set()


def find_consul():
    binary = ROOT / ".cache" / "consul" if (ROOT / ".cache" / "consul").exists() else shutil.which("consul")
    if not binary:
        pytest.skip("there is no Consul: script/node-image puts one into .cache")
    return str(binary)


@pytest.fixture
def agents(tmp_path):
    """A function that makes an agent that is stopped in the end."""
    binary, made = find_consul(), []
    net = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"

    def make(name, **settings):
        made.append(Agent(binary, tmp_path, name, f"{net}.{len(made) + 1}", **settings))
        return made[-1]

    yield make
    for agent in made:
        agent.stop()


@pytest.fixture(scope="session")
def standing(tmp_path_factory):
    """The agent that tests share, in a list: each starts it anew when the one before has left something in it."""
    made = []
    yield made, lambda: Agent(find_consul(), tmp_path_factory.mktemp("consul"), "c1", shared_address(), bootstrap_expect=1)
    for agent in made:
        agent.stop()


def shared_address():
    return f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.1"


@pytest.fixture
def agent(standing):
    """A mesh of one agent, which leads and has nothing in its store."""
    made, make = standing
    if not made:
        made.append(make().start())
        until(made[0].leader, 30)
        # Before that it can have no session.
        until(made[0].is_registered, 30)
    yield made[0]
    if not made[0].is_as_new():
        made.pop().stop()


class Node:
    """A node with the program, and with a script in the place of ansible-playbook."""

    def __init__(self, folder, name, consul_addr, hurried=False, **settings):
        self.program = PROGRAM.format(before=HURRIED if hurried else "")
        self.name, self.folder = name, folder / f"node-{name}"
        for path in (self.folder, self.folder / "state", self.folder / "run", self.folder / "events"):
            path.mkdir()
        self.playbook = self.folder / "ansible-playbook"
        self.playbook.write_text(ANSIBLE_PLAYBOOK)
        self.playbook.chmod(0o755)
        for file in ("ansible.cfg", "mesh.yml"):
            (self.folder / file).write_text("")
        self.settings = {
            "node": name,
            "period_s": 60,
            "lock_ttl_s": 2 if hurried else 10,
            "island_after_s": 60,
            "consul_addr": consul_addr,
            "ansible_playbook": str(self.playbook),
            "ansible_cfg": str(self.folder / "ansible.cfg"),
            "inventory": str(self.folder / "mesh.yml"),
            "playbook": "vdloo.mesh.site",
            "timeout_s": 120,
            "state_dir": str(self.folder / "state"),
            "run_dir": str(self.folder / "run"),
            "events_dir": str(self.folder / "events"),
            "event_quiet_s": 0.4,
            "hooks_dir": str(self.folder / "hooks"),
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
            [sys.executable, "-IS", "-c", self.program, str(ROOT / "collections"), "--config", str(self.config), *arguments],
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

    def event(self):
        """Let the agent leave word."""
        (self.folder / "events" / "changed").touch()

    @property
    def has_word(self):
        return (self.folder / "events" / "changed").exists()

    def hook(self, event, name, text, mode=0o700, **beside):
        """Put a hook there, and what lies beside it; a predicate is a program."""
        place = self.folder / "hooks" / event
        place.mkdir(parents=True, exist_ok=True)
        for path in (place, place.parent):
            path.chmod(0o700)
        for file, content in {name: text, **{f"{name.removesuffix('.yml')}.{ending}": found for ending, found in beside.items()}}.items():
            (place / file).write_text(content)
            (place / file).chmod(0o600 if file.endswith((".yml", ".json")) else mode)
        return place / name

    @property
    def hooks(self):
        """How each hook went the last time."""
        path = self.folder / "state" / "hooks.json"
        return {name: told["outcome"] for name, told in json.loads(path.read_text()).items()} if path.exists() else {}

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
