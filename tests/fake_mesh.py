# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A mesh of three, as Consul on n1 answers it."""

from __future__ import annotations

import base64
import json
import socket
import time

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import keys

PRIVATE_KEY = "0b4eed1835d708a79914a8925e8d5fff706a5258dfb4826f56d4c29eaec7abc5"
KEYS = {
    "n1": "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k",
    "n2": "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k",
    "n3": "v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k",
}
ADDRESS = {name: keys.address_from_public(key) for name, key in KEYS.items()}


def record(name, **changes):
    return {
        "name": name,
        "public_key": KEYS.get(name, KEYS["n1"]),
        "address": ADDRESS.get(name, ADDRESS["n1"]),
        "overlay": "cjdns",
        "endpoints": [],
        "zones": [],
        "site": "attic" if name == "n1" else "cellar",
        "arch": "x86_64",
        "ssh": {"user": "root", "port": 22 if name != "n3" else 2222, "host_key": "ssh-ed25519 " + "A" * 68},
        "server_eligible": True,
        "state": "member",
        "version": 1,
        "updated": "2026-01-01T00:00:00Z",
        **changes,
    }


class FakeConsul:
    """Answers as the agent on n1. A test changes what it says; `raw` answers a path with bytes as they are."""

    def __init__(self):
        self.members = [self.member("n1"), self.member("n2"), self.member("n3", tags={"role": "node"})]
        self.kv = {f"vdloo-mesh/v1/registry/{name}": json.dumps(record(name)) for name in KEYS}
        self.services = {"web": {"n1": "passing", "n2": "critical"}}
        self.raw: dict[str, bytes] = {}
        self.delay = 0.0
        self.hanging: tuple[str, ...] = ()
        self.leader = True
        self.token = ""
        self.calls: list[str] = []

    @staticmethod
    def member(name, status=1, tags=None, address=None):
        return {
            "Name": name,
            "Addr": address or ADDRESS.get(name, "fc00::9"),
            "Port": 8301,
            "Status": status,
            "Tags": tags or {"role": "consul"},
        }

    def answer(self, path: str, query: dict, token: str) -> tuple[int, bytes]:
        self.calls.append(path)
        time.sleep(30 if path in self.hanging else self.delay)
        if self.token and token != self.token:
            return 403, b"Permission denied"
        if path in self.raw:
            return 200, self.raw[path]
        if path == "/v1/agent/members":
            return 200, json.dumps(self.members).encode()
        if path == "/v1/agent/self":
            return 200, json.dumps({"Config": {"NodeName": "n1", "Server": True}, "Member": {"Addr": ADDRESS["n1"]}}).encode()
        if not self.leader and "stale" not in query:
            return 500, b"No cluster leader"
        if path.startswith("/v1/kv/"):
            prefix = path[len("/v1/kv/") :]
            found = {key: value for key, value in sorted(self.kv.items()) if key.startswith(prefix)}
            if not found:
                return 404, b""
            if "keys" in query:
                return 200, json.dumps(list(found)).encode()
            entries = [{"Key": key, "Value": base64.b64encode(value.encode()).decode()} for key, value in found.items()]
            return 200, json.dumps(entries).encode()
        if path == "/v1/catalog/services":
            return 200, json.dumps({name: [] for name in self.services}).encode()
        if path.startswith("/v1/health/service/"):
            instances = self.services.get(path.rpartition("/")[2], {})
            checks = [{"Node": {"Node": node}, "Checks": [{"Status": "passing"}, {"Status": status}]} for node, status in instances.items()]
            return 200, json.dumps(checks).encode()
        return 404, b""


def free_port(kind=socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
