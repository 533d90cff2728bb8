# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks all that a machine can tell of its mesh, at the same time: cjdns, Consul and the registry file.

Nothing is judged here: the answers are handed on as they came, and whoever asked checks them. The same code runs on the machine that asks
and, sent over SSH, on a node.

A request is a dictionary of plain JSON values; a source that is missing is not asked:

    timeout        seconds for each source
    cjdns          {"host", "port"}
    consul         {"addr", "token", "ca_file", "cert_file", "key_file", "verify"}; asked for the members, the services and, as kv, the KV
    registry_file  path
    settings_file  path
    knock          bool, whether to find out as well who answers though Consul does not say that he is alive: whoever repairs has to reach him
    kv             {"path", "stale"}: instead of all the above (but for consul and timeout), the KV below one path

A reply:

    answers        {source: answer} of the sources that answered; and "answering": the addresses of the nodes at which it was knocked
                   and that answered, of all of them without Consul
    errors         {source: text} of those that did not
    warnings       [text]
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import sys
import threading
import time
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns.admin import AdminError
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns.admin import Client as Cjdns
from ansible_collections.vdloo.mesh.plugins.module_utils.consul.client import KV_PREFIX, ClientError, TooBig
from ansible_collections.vdloo.mesh.plugins.module_utils.consul.client import Client as Consul

MAX_FILE_BYTES = 8 * 1024 * 1024
# A source that has used up its time without noticing is given up this much later.
GRACE_S = 0.5
# How many nodes are knocked at the same time.
KNOCKERS = 64
SERVICE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class SourceError(Exception):
    """A source did not answer; the message says why."""


def collect(request: dict) -> dict:
    """Answer a request. Never raises for what a source does: that is in the reply's errors."""
    jobs: dict[str, typing.Callable[[dict, list[str]], typing.Any]] = {}
    if "kv" in request:
        jobs["kv"] = read_kv
    else:
        if request.get("cjdns"):
            jobs["cjdns"] = ask_cjdns
        if request.get("consul"):
            jobs.update({"consul": ask_members, "services": ask_services, "kv": ask_kv})
        if request.get("registry_file"):
            jobs["registry"] = read_registry
        if request.get("settings_file"):
            jobs["settings"] = read_settings
    answers: dict[str, typing.Any] = {}
    errors: dict[str, str] = {}
    warnings: list[str] = []

    def run(source: str) -> None:
        try:
            answers[source] = jobs[source](request, warnings)
        except (AdminError, ClientError, SourceError, ValueError) as error:
            errors[source] = str(error)

    # Daemon threads: one that hangs in a call without a time-out of its own must not keep the program from ending.
    threads = {source: threading.Thread(target=run, args=(source,), daemon=True) for source in jobs}
    _run(list(threads.values()), request["timeout"] + GRACE_S)
    in_time = dict(answers)
    late = {source: f"no answer within {request['timeout']:g} s" for source in jobs if source not in in_time}
    # Consul knows who is alive. Without it, and while there is an overlay to do it over, each node is asked itself.
    if ("consul" not in in_time or request.get("knock")) and "cjdns" in in_time and "registry" in in_time:
        in_time["answering"] = knock(in_time["registry"], request["timeout"], alive(in_time.get("consul")))
    return {"answers": in_time, "errors": {**late, **errors}, "warnings": list(warnings)}


def _run(threads: list[threading.Thread], seconds: float) -> None:
    """Start threads and wait for them, all together no longer than that."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def alive(answer: dict | None) -> set[str]:
    """The addresses of the members that Consul says are alive."""
    return {
        member["address"] for member in (answer or {}).get("members", []) if member["status"] == 1 and isinstance(member["address"], str)
    }


def knock(registry: dict, timeout: float, known: set[str] | frozenset[str] = frozenset()) -> list[str]:
    """The addresses out of the registry, but for those that are `known`, at which an sshd takes a connection within `timeout` seconds."""
    doors: list[tuple[str, int]] = []
    for record in registry.values():
        try:
            port = (record.get("ssh") or {}).get("port", 22)
            address = ipaddress.ip_address(record["address"])
            if record["state"] == "member" and address.version == 6 and str(address) not in known and 0 < port < 65536:
                doors.append((record["address"], port))
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    doors.reverse()
    open_doors: list[str] = []

    def work() -> None:
        while doors:
            try:
                address, port = doors.pop()
                socket.create_connection((address, port), timeout / 2).close()
                open_doors.append(address)
            except (OSError, IndexError):
                continue

    _run([threading.Thread(target=work, daemon=True) for _number in range(min(len(doors), KNOCKERS))], timeout)
    return sorted(open_doors)


def ask_cjdns(request: dict, warnings: list[str]) -> dict:
    """{"node": {address, public_key, version}, "peers": [...]}, as the admin client has them."""
    client = Cjdns(request["cjdns"]["host"], request["cjdns"]["port"], timeout=request["timeout"] / 3)
    answer = {"node": client.node(), "peers": client.peers()}
    warnings.extend(f"cjdns: {text}" for text in client.dropped)
    return answer


def ask_members(request: dict, _warnings: list[str]) -> dict:
    """{"members": [{name, address, status, role}]} out of gossip, the one thing that answers at once whatever state the servers are in."""
    members = [
        {"name": member.get("Name"), "address": member.get("Addr"), "status": member.get("Status"), "role": _role(member)}
        for member in _consul(request).members()
        if isinstance(member, dict)
    ]
    return {"members": members}


def ask_services(request: dict, warnings: list[str]) -> dict[str, list]:
    """{service: [[node, status]]}, the status being the worst of the checks of that instance and of its node."""
    client = _consul(request)
    listed = client.get("/v1/catalog/services", {"stale": ""}).value
    found = {}
    for service in sorted(listed if isinstance(listed, dict) else []):
        if not SERVICE_NAME.fullmatch(service):
            warnings.append(f"consul: the service {service!r:.80} was left out: its name is none that a group can have")
            continue
        instances = client.get("/v1/health/service/" + service, {"stale": ""}).value
        found[service] = [_instance(entry) for entry in instances if isinstance(entry, dict)] if isinstance(instances, list) else []
    return found


def ask_kv(request: dict, warnings: list[str]) -> dict[str, str]:
    """{key below vdloo-mesh/v1/: text}."""
    client = _consul(request)
    try:
        entries = client.kv(KV_PREFIX)
    except TooBig:
        # Somebody keeps something here that is not ours: without it the rest is still good.
        entries = {}
        client.max_bytes = client.max_bytes // 64
        for key in client.kv_keys(KV_PREFIX):
            try:
                entries.update(client.kv(key))
            except TooBig:
                warnings.append(f"consul: the key {key!r:.80} was left out: its value is too long")
    return {key[len(KV_PREFIX) :]: value for key, value in entries.items()}


def read_kv(request: dict, _warnings: list[str]) -> dict[str, str]:
    """{key: text} of the keys that begin with the path of the request."""
    return _consul(request).kv(request["kv"]["path"], request["kv"]["stale"])


def read_registry(request: dict, _warnings: list[str]) -> dict:
    """{name: record} out of the file."""
    return _read_file(request["registry_file"])


def read_settings(request: dict, _warnings: list[str]) -> dict:
    """The record of the settings out of the file; empty when there is none, as nobody has to set anything."""
    return _read_file(request["settings_file"]) if os.path.lexists(request["settings_file"]) else {}


def _read_file(path: str) -> dict:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise SourceError(f"{path} is longer than {MAX_FILE_BYTES} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not valid JSON") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} does not hold a JSON object")
    return found


def _consul(request: dict) -> Consul:
    return Consul(timeout=request["timeout"], **request["consul"])


def _role(member: dict) -> str:
    tags = member.get("Tags")
    role = tags.get("role") if isinstance(tags, dict) else None
    return {"consul": "server", "node": "client"}.get(role, "") if isinstance(role, str) else ""


def _instance(entry: dict) -> list:
    node = entry.get("Node")
    checks = entry.get("Checks")
    states = {check.get("Status") for check in checks if isinstance(check, dict)} if isinstance(checks, list) else set()
    worst = "critical" if states & {"critical", "maintenance"} else "warning" if "warning" in states else "passing"
    return [node.get("Node") if isinstance(node, dict) else None, worst]


def main(request: dict, marker: str) -> None:
    """Answer on standard output, behind a marker: a login shell may have said something before. Ends at once, whatever still hangs."""
    sys.stdout.write(f"\n{marker}{json.dumps(collect(request))}")
    sys.stdout.flush()
    os._exit(0)
