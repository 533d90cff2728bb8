# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names on a client of a real Consul that loses other nodes, all servers, and its own agent."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import config, wire
from fake_names import Running, free_port, question

ROOT = Path(__file__).resolve().parents[5]
BINARY = str(ROOT / ".cache" / "consul") if (ROOT / ".cache" / "consul").exists() else shutil.which("consul")
PACKAGES = Path(config.__file__).parents[1]
SERVER, CLIENT, OTHER = "127.0.0.71", "127.0.0.72", "127.0.0.73"

pytestmark = pytest.mark.skipif(not BINARY, reason="there is no Consul binary: run script/bootstrap")


class Agent:
    """A real agent on a loopback address of its own, with a service web, and services that are asked for late."""

    def __init__(self, folder: Path, address: str, join: Agent | None, *services: str) -> None:
        """`join` is the server, None for the server itself."""
        self.folder, self.address, server = folder / address, address, join is None
        self.folder.mkdir()
        self.ports = {name: free_port(address) for name in ("http", "dns", "serf_lan", "server")}
        loop = {"node_name": "n" + address[-2:], "bind_addr": address, "client_addr": address, "data_dir": str(self.folder / "data")}
        settings = {
            **loop,
            "datacenter": "mesh",
            "server": server,
            "retry_join": [f"{join.address}:{join.ports['serf_lan']}"] if join else [],
            "retry_interval": "1s",
            "disable_update_check": True,
            "ports": {**self.ports, "serf_wan": -1, "grpc": -1},
            "performance": {"raft_multiplier": 1},
            "discovery_max_stale": "87600h",
            "dns_config": {"only_passing": True, "max_stale": "87600h", **({} if server else {"use_cache": True, "cache_max_age": "5s"})},
            "services": [{"name": name, "port": 80} for name in services],
            **({"bootstrap_expect": 1} if server else {}),
        }
        (self.folder / "agent.json").write_text(json.dumps(settings))
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with open(self.folder / "log", "a", encoding="utf-8") as log:
            command = [BINARY, "agent", "-config-file", str(self.folder / "agent.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def register(self, name: str) -> None:
        body = json.dumps({"Name": name, "Port": 80}).encode()
        request = urllib.request.Request(f"http://{self.address}:{self.ports['http']}/v1/agent/service/register", data=body, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()


class Mesh:
    def __init__(self, folder: Path) -> None:
        self.server = Agent(folder, SERVER, None, "web")
        self.client = Agent(folder, CLIENT, self.server, "web", "late")
        self.other = Agent(folder, OTHER, self.server, "web", "late")
        self.agents = (self.server, self.client, self.other)
        (folder / "names").mkdir()
        (folder / "state").mkdir()
        self.names = Running(
            PACKAGES,
            config.Config(
                listen=config.Server("127.0.0.1", 0),
                consul_domain="consul",
                consul_dns=config.Server(CLIENT, self.client.ports["dns"]),
                consul_http=config.Server(CLIENT, self.client.ports["http"]),
                mesh_domain="mesh",
                registry=str(folder / "registry.json"),
                snapshot=str(folder / "state" / "snapshot.json"),
                max_age=3600,
            ),
            folder / "names",
        )

    def addresses(self, name: str) -> set[str] | int:
        """The addresses that a name has, or the code of the refusal. No answer takes as long as the agent would, which is many seconds."""
        start = time.monotonic()
        answer = wire.decode(self.names.udp(question(name, edns=4096)))
        assert time.monotonic() - start < 2.0
        return (
            {str(ipaddress.ip_address(record.data)) for record in answer.answers if record.type == wire.A}
            if not answer.rcode
            else answer.rcode
        )

    def status(self) -> dict:
        return json.loads(self.names.status("--json").stdout)

    def whole(self) -> bool:
        known = self.addresses("web.service.consul") == {SERVER, CLIENT, OTHER}
        return known and not self.status()["stale"] and self.status()["snapshot"]["instances"] == 6


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    found = Mesh(tmp_path_factory.mktemp("consul"))
    try:
        for agent in found.agents:
            agent.start()
        found.names.start()
        wait_for(found.whole, 60)
        yield found
    finally:
        found.names.stop()
        for agent in found.agents:
            agent.kill()
        print(found.names.log.read_text())


def test_a_dead_node_is_not_answered_and_is_when_it_is_back(mesh):
    mesh.other.kill()
    wait_for(lambda: mesh.addresses("web.service.consul") == {SERVER, CLIENT})
    mesh.other.start()
    wait_for(mesh.whole)


def test_an_agent_that_hangs_is_not_waited_for(mesh):
    os.kill(mesh.client.process.pid, signal.SIGSTOP)
    try:
        for _number in range(10):
            assert mesh.addresses("web.service.consul") == {SERVER, CLIENT, OTHER}
        # It looks again within a second of the first name that was answered so.
        wait_for(lambda: mesh.status()["answers_from"] == "snapshot")
    finally:
        os.kill(mesh.client.process.pid, signal.SIGCONT)
    wait_for(mesh.whole)


def test_an_agent_that_is_killed_is_not_missed(mesh):
    mesh.client.kill()
    assert mesh.addresses("web.service.consul") == {SERVER, CLIENT, OTHER}
    assert mesh.addresses("n73.node.consul") == {OTHER}
    assert mesh.addresses("nobody.service.consul") == wire.NXDOMAIN
    mesh.client.start()
    wait_for(mesh.whole)


def test_without_any_server_names_resolve_and_are_fresh_when_it_is_back(mesh):
    mesh.server.kill()
    # All the way from the first questions that the agent lets hang to the last that it refuses.
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        assert CLIENT in mesh.addresses("web.service.consul")
        assert mesh.addresses("late.service.consul") == {CLIENT, OTHER}
        time.sleep(0.1)
    assert mesh.addresses("web.service.consul") == {CLIENT, OTHER}, "gossip knows that the server is dead"
    assert mesh.status()["stale"] and mesh.names.status().returncode == 3

    # The agent starts anew, and knows nothing but who is alive. Then the program does, too.
    mesh.client.kill()
    mesh.client.start()
    wait_for(lambda: mesh.addresses("late.service.consul") == {CLIENT, OTHER})
    mesh.names.stop()
    mesh.names.start()
    wait_for(lambda: mesh.addresses("late.service.consul") == {CLIENT, OTHER})

    mesh.other.kill()
    wait_for(lambda: mesh.addresses("late.service.consul") == {CLIENT})
    mesh.other.start()
    mesh.server.start()
    wait_for(mesh.whole)
    mesh.client.register("new")
    wait_for(lambda: mesh.addresses("new.service.consul") == {CLIENT})
    wait_for(lambda: mesh.status()["snapshot"]["services"] == 4)
