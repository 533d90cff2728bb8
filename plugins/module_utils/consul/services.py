# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Services of a Consul agent: those that it has, and those that its configuration files define.

A service is {"id", "name", "port", "mark"}; the mark tells which definition of the role service it is, empty for one of somebody else.
"""

from __future__ import annotations

import typing

from .client import Client, ClientError

# The key in the meta data of a service under which the agent tells the mark back.
MARK = "vdloo-mesh"


def registered(agent: Client) -> dict[str, dict]:
    """The services that the agent has, by id. Raises ClientError."""
    found = agent.get("/v1/agent/services").value
    if not isinstance(found, dict):
        raise ClientError("GET /v1/agent/services: the answer is not what Consul answers")
    entries = [_described({**entry, "name": entry.get("Service")}) for entry in found.values() if isinstance(entry, dict)]
    return {entry["id"]: entry for entry in entries}


def defined(content: dict) -> list[dict]:
    """The services that a configuration file defines. Consul does not mind capitals in its keys."""
    keys = {str(key).lower(): value for key, value in content.items()}
    several = keys.get("services")
    entries = [keys.get("service"), *(several if isinstance(several, list) else [])]
    return [_described(entry) for entry in entries if isinstance(entry, dict)]


def _described(entry: dict) -> dict[str, typing.Any]:
    keys = {str(key).lower(): value for key, value in entry.items()}
    meta = keys.get("meta")
    name = str(keys.get("name") or "")
    return {
        "id": str(keys.get("id") or name),
        "name": name,
        "port": keys.get("port") or 0,
        "mark": str(meta.get(MARK, "")) if isinstance(meta, dict) else "",
    }


def is_ours(content: dict, name: str) -> bool:
    """Whether the role service has written a file for this service."""
    return any(entry["id"] == name and entry["mark"] for entry in defined(content))


def clashes(entry: dict, name: str, port: int) -> bool:
    """Whether a service would be the same one for Consul, or for whoever asks it."""
    return entry["id"] == name or (entry["name"].lower() == name and entry["port"] == port)


def has(known: dict[str, dict], name: str, mark: str) -> bool:
    """Whether the agent has the definition with this mark; without a mark, whether it has no such service."""
    return known[name]["mark"] == mark and bool(mark) if name in known else not mark


def has_scripts(content: typing.Any) -> bool:
    """Whether a configuration file has a check that is a script, of a service or of the node."""
    if isinstance(content, list):
        return any(map(has_scripts, content))
    if not isinstance(content, dict):
        return False
    keys = {str(key).lower(): value for key, value in content.items()}
    checks = [keys.get("check"), *(keys["checks"] if isinstance(keys.get("checks"), list) else [])]
    scripts = any(str(key).lower() in ("args", "script", "scriptargs") for check in checks if isinstance(check, dict) for key in check)
    return scripts or has_scripts(keys.get("service")) or has_scripts(keys.get("services"))


def runs_scripts(config: dict) -> bool:
    """Whether a configuration lets an agent run the scripts of checks in files."""
    return any(config.get(key) is True for key in ("enable_local_script_checks", "enable_script_checks"))


def agent_runs_scripts(agent: Client) -> bool:
    """Whether the running agent does. Raises ClientError."""
    debug = agent.myself().get("DebugConfig") or {}
    return any(debug.get(key) is True for key in ("EnableLocalScriptChecks", "EnableRemoteScriptChecks"))
