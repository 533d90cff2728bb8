# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A mesh that exists only in what its sources say: the registry, and Consul's answers in the shapes of Consul 1.8.7.

The same number of nodes gives the same mesh each time, but for the keys that are handed in.
"""

from __future__ import annotations

import base64
import json
import random
import uuid

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import keys

UPDATED = "2026-01-02T03:04:05Z"
SITES = ("cloud-a", "cloud-b", "home", "office", "attic", "lab", "van", "shed")
SERVERS = 5
# One instance on every so many nodes.
SERVICES = {"web": 3, "cache": 7, "db": 10, "metrics": 2}
ALIVE, FAILED = 1, 4


class Mesh:
    """`size` nodes, the first of which have the public keys `known_keys`. `records` is the registry: {name: record}."""

    def __init__(self, size: int, known_keys: list[str]) -> None:
        self.random = random.Random(size)
        names = [f"node{number:04}" for number in range(1, size + 1)]
        public_keys = known_keys + [self._public_key() for _name in names[len(known_keys) :]]
        self.records = {name: self._record(name, number, key) for number, (name, key) in enumerate(zip(names, public_keys))}
        self.ids = {name: str(uuid.UUID(int=self.random.getrandbits(128), version=4)) for name in names}
        # Every fiftieth is down, but never one that somebody talks to here.
        self.failed = {name for number, name in enumerate(names) if number % 50 == 24}

    def _public_key(self) -> str:
        while True:
            key = keys.base32_encode(self.random.randbytes(31) + b"\x00") + ".k"
            try:
                keys.address_from_public(key)
                return key
            except keys.KeyFormatError:
                continue  # one of 256 has an address that begins with fc

    def _record(self, name: str, number: int, public_key: str) -> dict:
        host_key = base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 " + self.random.randbytes(32)).decode()
        site = SITES[number % len(SITES)]
        public = number % 3 == 0
        return {
            "name": name,
            "public_key": public_key,
            "address": keys.address_from_public(public_key),
            "overlay": "cjdns",
            "endpoints": [{"address": f"198.51.{number // 250}.{number % 250 + 1}:4321", "zone": "public" if public else site}],
            "zones": [] if public else [site],
            "site": site,
            "arch": "aarch64" if number % 5 == 4 else "x86_64",
            "ssh": {"user": "root", "port": 2222 if number % 9 == 8 else 22, "host_key": f"ssh-ed25519 {host_key}"},
            "server_eligible": number < SERVERS,
            "state": "member",
            "version": number % 4 + 1,
            "updated": UPDATED,
        }

    def replies(self) -> dict[str, str]:
        """Consul's answers: {path without its query: JSON}."""
        found = {
            "/v1/agent/members": [self._member(name) for name in self.records],
            "/v1/catalog/services": {"consul": [], **{service: [] for service in sorted(SERVICES)}},
            "/v1/health/service/consul": [self._instance(name, "consul", 8300) for name in list(self.records)[:SERVERS]],
            "/v1/kv/vdloo-mesh/v1/": self._kv(),
        }
        for number, (service, every) in enumerate(SERVICES.items()):
            found[f"/v1/health/service/{service}"] = [self._instance(name, service, 8000 + number) for name in list(self.records)[::every]]
        return {path: json.dumps(value, separators=(",", ":")) for path, value in found.items()}

    def _member(self, name: str) -> dict:
        tags = {
            "acls": "0",
            "build": "1.8.7:",
            "dc": "mesh",
            "id": self.ids[name],
            "segment": "",
            "vsn": "2",
            "vsn_max": "3",
            "vsn_min": "2",
        }
        if self.records[name]["server_eligible"]:
            tags.update(role="consul", expect="5", ft_fs="1", port="8300", raft_vsn="3")
        else:
            tags.update(role="node")
        return {
            "Name": name,
            "Addr": self.records[name]["address"],
            "Port": 8301,
            "Tags": dict(sorted(tags.items())),
            "Status": FAILED if name in self.failed else ALIVE,
            "ProtocolMin": 1,
            "ProtocolMax": 5,
            "ProtocolCur": 2,
            "DelegateMin": 2,
            "DelegateMax": 5,
            "DelegateCur": 4,
        }

    def _instance(self, name: str, service: str, port: int) -> dict:
        address, index = self.records[name]["address"], 100 + int(name[4:])
        status = "critical" if int(name[4:]) % 97 == 0 else "passing"
        check = {"Notes": "", "ServiceTags": [], "Definition": {}, "CreateIndex": index, "ModifyIndex": index}
        serf = {
            "Node": name,
            "CheckID": "serfHealth",
            "Name": "Serf Health Status",
            "Status": "critical" if name in self.failed else "passing",
            "Output": "Agent not live or unreachable" if name in self.failed else "Agent alive and reachable",
            "ServiceID": "",
            "ServiceName": "",
            "Type": "",
            **check,
        }
        own = {
            "Node": name,
            "CheckID": f"service:{service}",
            "Name": f"Service '{service}' check",
            "Status": status,
            "Output": f"TCP connect [{address}]:{port}: Success",
            "ServiceID": service,
            "ServiceName": service,
            "Type": "tcp",
            **check,
        }
        return {
            "Node": {
                "ID": self.ids[name],
                "Node": name,
                "Address": address,
                "Datacenter": "mesh",
                "TaggedAddresses": {"lan": address, "lan_ipv6": address, "wan": address, "wan_ipv6": address},
                "Meta": {"consul-network-segment": ""},
                "CreateIndex": index,
                "ModifyIndex": index,
            },
            "Service": {
                "ID": service,
                "Service": service,
                "Tags": [],
                "Address": "",
                "Meta": None,
                "Port": port,
                "Weights": {"Passing": 1, "Warning": 1},
                "EnableTagOverride": False,
                "Proxy": {"MeshGateway": {}, "Expose": {}},
                "Connect": {},
                "CreateIndex": index,
                "ModifyIndex": index,
            },
            "Checks": [serf] if service == "consul" else [serf, own],
        }

    def _kv(self) -> list[dict]:
        values = {f"vdloo-mesh/v1/converged/{name}": {"at": UPDATED, "by": "laptop"} for name in self.records if name not in self.failed}
        values.update({f"vdloo-mesh/v1/registry/{name}": record for name, record in self.records.items()})
        return [
            {
                "LockIndex": 0,
                "Key": key,
                "Flags": 0,
                "Value": base64.b64encode(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).decode(),
                "CreateIndex": 50 + number,
                "ModifyIndex": 50 + number,
            }
            for number, (key, value) in enumerate(values.items())
        ]
