# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the local Consul agent's answers mean for a mesh."""

from __future__ import annotations

import typing
import urllib.parse

from ansible_collections.vdloo.mesh.plugins.module_utils import ports

from . import client
from .client import ClientError as AgentError

# Serf's number for a member that answers.
ALIVE = 1
# A new leader knows of no server until it has looked at them for the first time.
NOT_TOLD = "the leader does not tell who votes"


class Agent:
    """The agent at a loopback address."""

    def __init__(self, port: int = client.DEFAULT_PORT, host: str = "127.0.0.1") -> None:
        self.port = port
        self.client = client.Client(f"http://{host}:{port}")

    def get(self, path: str, timeout: float = client.SLOW_CALL_S, accept: tuple[int, ...] = (200,)) -> typing.Any:
        """Make a GET and return the JSON of its answer."""
        return self.client.get(path, accept=accept, timeout=timeout).value

    def describe(self) -> dict:
        """Tell who the agent is: node, datacenter, address, server, bootstrap_expect and leader (empty when there is none)."""
        answer = self.get("/v1/agent/self", timeout=3)
        config, debug, member = (answer.get(key) or {} for key in ("Config", "DebugConfig", "Member"))
        return {
            "node": config.get("NodeName"),
            "datacenter": config.get("Datacenter"),
            "server": bool(config.get("Server")),
            "version": config.get("Version"),
            "address": member.get("Addr"),
            "bootstrap_expect": 1 if debug.get("Bootstrap") else int(debug.get("BootstrapExpect") or 0),
            "leader": self.leader(),
        }

    def leader(self) -> str:
        return self.client.leader(timeout=3)

    def members(self) -> list[dict]:
        return self.client.members(timeout=3)

    def raft_servers(self) -> list[dict]:
        """Ask the leader for the raft peers; that it answers also proves that writes can get to it."""
        return self.get("/v1/operator/raft/configuration")["Servers"]

    def health(self) -> dict:
        """Return autopilot's view of the servers; 429 is its way to say "unhealthy"."""
        return self.get("/v1/operator/autopilot/health", accept=(200, 429))

    def join(self, address: str) -> bool:
        """Ask the agent to join a peer by gossip and tell whether it did."""
        try:
            status, _headers, _body = self.client.request("PUT", "/v1/agent/join/" + urllib.parse.quote(address, safe=""), timeout=5)
        except AgentError:
            return False
        return status == 200

    def leave(self, timeout: float) -> None:
        """Ask the agent to leave the mesh. As a server it first gives up its vote; then it ends, maybe before it has answered."""
        try:
            status, _headers, body = self.client.request("PUT", "/v1/agent/leave", timeout=timeout)
        except AgentError:
            return
        if status != 200:
            raise AgentError(f"PUT /v1/agent/leave: {status} {body[:200].decode('utf-8', 'replace').strip()}")


def find(uid: int, preferred: int) -> tuple[int, dict]:
    """Find the API of the agent of this user: its port, and what it says of itself (nothing if none answers).

    The configuration may name another port already than the one that the running agent listens on.
    """
    loopback = ("127.0.0.1", "::1", "0.0.0.0", "::")
    mine = {listener.port for listener in ports.listeners(["tcp"]) if listener.uid == uid and listener.address in loopback}
    for port in sorted(mine, key=lambda port: (port != preferred, port)):
        try:
            return port, Agent(port).describe()
        except (AgentError, AttributeError, TypeError):  # its DNS port, or something else that is no API
            continue
    return preferred, {}


def alive_names(members: list[dict]) -> list[str]:
    return sorted(member["Name"] for member in members if member.get("Status") == ALIVE)


def restart_risk(health: dict) -> str:
    """Tell why restarting one server now could cost the quorum; empty when it cannot.

    One or two voters tolerate no loss at all: a restart then is a pause that nothing can avoid.
    """
    voters = [server for server in health.get("Servers") or [] if server.get("Voter")]
    if not voters:
        return NOT_TOLD
    unhealthy = _unhealthy(voters)
    if unhealthy:
        return unhealthy
    if len(voters) > 2 and int(health.get("FailureTolerance") or 0) < 1:
        return f"the {len(voters)} voters tolerate no failure"
    return ""


def _unhealthy(voters: list[dict]) -> str:
    names = sorted(server.get("Name") or server.get("Address", "?") for server in voters if not server.get("Healthy"))
    return "unhealthy: " + ", ".join(names) if names else ""


def demotion_risk(health: dict, name: str, wanted: set[str]) -> str:
    """Tell why the server `name` must keep its vote for now; empty when the others can do without.

    All of `wanted`, the servers that the mesh is to have, must vote by then. Where nothing is wanted, the others must tolerate a loss, or as
    much as before.
    """
    voters = [server for server in health.get("Servers") or [] if server.get("Voter")]
    others = [server for server in voters if server.get("Name") != name]
    if not voters:
        return NOT_TOLD
    if len(others) == len(voters):
        return ""
    if not others:
        return "it is the only voter: its data would be lost"
    missing = sorted(wanted - {name} - {server.get("Name") for server in others})
    if missing:
        return "no vote yet: " + ", ".join(missing)
    unhealthy = _unhealthy(others)
    if unhealthy:
        return unhealthy
    if not wanted and len(others) == 2:
        return "the other 2 voters would tolerate no failure"
    return ""


def return_lack(health: dict, names: set[str]) -> str:
    """Tell what is missing until all of `names` vote, are healthy, and the voters tolerate a loss, or as much as so few can."""
    missing = sorted(names - voter_names(health))
    return "no vote yet: " + ", ".join(missing) if missing else restart_risk(health)


def healthy_voters(health: dict) -> set[str]:
    return {server["Name"] for server in health.get("Servers") or [] if server.get("Voter") and server.get("Healthy")}


def voter_names(health: dict) -> set[str]:
    return {server["Name"] for server in health.get("Servers") or [] if server.get("Voter")}
