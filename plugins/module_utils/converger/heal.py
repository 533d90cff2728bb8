# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Mends what Consul does not mend by itself: an agent that has lost the others for so long that it has forgotten them."""

from __future__ import annotations

import concurrent.futures
import ipaddress
import socket
import typing
import urllib.parse

from ansible_collections.vdloo.mesh.plugins.module_utils import collector
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock

SERF_PORT = 8301
KNOCK_S = 2.0
JOIN_S = 6.0
# All of it may take no longer than this and one more call.
HEAL_S = 30.0
KNOCKERS = 32
# Gossip's numbers for a member that answers, that is about to leave, and that it still tries to reach.
ALIVE, LEAVING, FAILED = 1, 2, 4


def rejoin(addr: str, node: str, registry_file: str, say: typing.Callable[[str], None]) -> list[str]:
    """Let the agent at `addr` join the members of the registry that it has lost; return the addresses at which that worked.

    An agent tries to reach a member that failed until it forgets it; when both sides have forgotten, they stay apart for ever.
    """
    deadline = clock.seconds() + HEAL_S
    agent = client.Client(addr, timeout=JOIN_S)
    joined: list[str] = []
    try:
        others = addresses(collector.read_registry({"registry_file": registry_file}, []), node)
        own = agent.myself().get("Member") or {}
        port = own.get("Port") or SERF_PORT
        while clock.seconds() < deadline:
            members = [member for member in agent.members() if isinstance(member, dict)]
            wanted = [address for address in lost(members, own.get("Name"), others) if address not in joined]
            address = _join_one(agent, _knock(wanted, port), port, deadline)
            if not address:
                break
            joined.append(address)
            say(f"joined the Consul agent at {address}, which this node's had lost")
    except client.ClientError as error:
        say(f"this node's Consul agent does not tell whom it sees: {error}")
    except collector.SourceError as error:
        say(f"there is nobody to join: {error}")
    finally:
        agent.close()
    return joined


def addresses(registry: dict, node: str) -> list[str]:
    """The addresses of all members but this node: first those that may be servers."""
    found = []
    for name, record in sorted(registry.items()):
        try:
            if name != node and record["state"] == "member":
                found.append((not record.get("server_eligible", True), str(ipaddress.ip_address(record["address"]))))
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return [address for _later, address in sorted(found, key=lambda pair: pair[0])]


def lost(members: list[dict], own: str | None, others: list[str]) -> list[str]:
    """Of `others`, those that the agent named `own` is to join: whom it has forgotten, or all when it is alone or sees no server."""
    alive = [member for member in members if member.get("Status") == ALIVE]
    has_company = any(member.get("Name") != own for member in alive)
    has_server = any((member.get("Tags") or {}).get("role") == "consul" for member in alive)
    if not (has_company and has_server):
        return [address for address in others if address not in {member.get("Addr") for member in alive}]
    known = {member.get("Addr") for member in members if member.get("Status") in (ALIVE, LEAVING, FAILED)}
    return [address for address in others if address not in known]


def _knock(wanted: list[str], port: int) -> list[str]:
    """Those at which somebody takes a connection; the others would hold up the agent."""

    def answers(address: str) -> bool:
        try:
            socket.create_connection((address, port), KNOCK_S).close()
        except OSError:
            return False
        return True

    if not wanted:
        return []
    with concurrent.futures.ThreadPoolExecutor(min(KNOCKERS, len(wanted))) as pool:
        return [address for address, open_door in zip(wanted, pool.map(answers, wanted)) if open_door]


def _join_one(agent: client.Client, wanted: list[str], port: int, deadline: float) -> str:
    """Join the first that works, and return its address; empty when none did."""
    for address in wanted:
        if clock.seconds() > deadline:
            break
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            agent.put("/v1/agent/join/" + urllib.parse.quote(place, safe=""))
        except client.ClientError:
            continue
        return address
    return ""
