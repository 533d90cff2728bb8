# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The last known healthy instances of every service, and the nodes: what is answered with when Consul cannot.

On disk, and in memory, it is a dictionary of plain JSON values:

    version      int
    datacenter   str, in lower case
    taken        float, seconds since the epoch: when its content last changed
    confirmed    float, the same: when Consul, with a leader, last said that it still holds
    index        int, Consul's index of it
    left_out     int, instances beyond the bounds
    nodes        {name: {"address": str, "member": bool}}; a member takes part in the gossip
    services     {name: [[node, address, port, [tag, ...], weight], ...]}; the instances that pass all their checks
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import typing

from . import wire
from .gossip import Members, packed

VERSION = 1
MAX_SERVICES = 2000
MAX_INSTANCES = 20000
MAX_NODES = 10000
MAX_FILE = 16 * 1024 * 1024
PASSING = "passing"
SERF = "serfHealth"


class SnapshotError(ValueError):
    """What is no snapshot, or nothing to make one of."""


class Instance(typing.NamedTuple):
    node: str
    address: str
    port: int
    tags: list
    weight: int


class Snapshot:
    """A snapshot, with the lookups that names need. All names are in lower case."""

    def __init__(self, content: dict) -> None:
        """Raise SnapshotError for a content of another shape."""
        try:
            self.services = {name: [Instance(*entry) for entry in entries] for name, entries in content["services"].items()}
            self.nodes = {name: (str(node["address"]), bool(node["member"])) for name, node in content["nodes"].items()}
            self.taken, self.confirmed = float(content["taken"]), float(content["confirmed"])
            self.datacenter, self.index, self.left_out = str(content["datacenter"]), int(content["index"]), int(content["left_out"])
            whole = content["version"] == VERSION and all(
                packed(one.address) and isinstance(one.node, str) and 0 <= one.port <= 65535 and 0 <= one.weight <= 65535
                for found in self.services.values()
                for one in found
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SnapshotError(f"not of the known shape ({type(error).__name__}: {error})") from error
        if not whole or not all(packed(address) for address, dummy in self.nodes.values()):
            raise SnapshotError("not of the known version, or with an address that is none")
        self.content = content
        self._names = self._by_address()

    def date(self, taken: float, confirmed: float) -> None:
        self.taken, self.confirmed = taken, confirmed
        self.content = {**self.content, "taken": taken, "confirmed": confirmed}

    def _by_address(self) -> dict[bytes, tuple]:
        names: dict[bytes, tuple] = {}
        for service, found in sorted(self.services.items()):
            for one in found:
                names.setdefault(packed(one.address), (service, "service"))
        for node, (address, _member) in sorted(self.nodes.items()):
            names[packed(address)] = (node, "node")
        return {address: name for address, name in names.items() if wire.is_writable(name[0])}

    def name_of(self, address: bytes) -> tuple | None:
        """What has this packed address: (name, "node" or "service")."""
        return self._names.get(address)

    def age(self) -> float:
        """Seconds since it was last confirmed; a clock that was set back makes nothing older or newer than it is."""
        return max(0.0, time.time() - self.confirmed)

    def instances(self, service: str, tag: str = "") -> list[Instance] | None:
        """The instances of a service; None when there is no such service, or none with the tag."""
        found = [one for one in self.services.get(service, []) if not tag or tag in one.tags]
        return found or None

    def dead_addresses(self, members: Members) -> set[bytes]:
        """The addresses of instances, where these are not their nodes' own, of which every node is dead."""
        held: dict[bytes, bool] = {}
        for found in self.services.values():
            for one in found:
                address = packed(one.address)
                held[address] = held.get(address, True) and one.node in members.dead
        return {address for address, dead in held.items() if dead}

    def lives(self, node: str, members: Members) -> bool:
        """Whether a node may be answered with: it is alive, or takes no part in the gossip at all."""
        return node in members.alive or (node not in members.dead and not self.nodes.get(node, ("", False))[1])


def build(dump: object, datacenter: str, index: int) -> Snapshot:
    """Make a snapshot of the answer of /v1/internal/ui/nodes. Raise SnapshotError for one that is empty or not whole."""
    if not isinstance(dump, list) or not dump:
        raise SnapshotError("there are no nodes in the catalog")
    nodes: dict[str, dict] = {}
    services: dict[str, list] = {}
    count = left_out = 0
    try:
        for entry in sorted(dump, key=lambda node: node["Node"].lower()):
            name, address = entry["Node"].lower(), entry["Address"]
            checks = entry.get("Checks") or []
            # Of an external node the address may be a name, of which nobody here can give the address.
            if not packed(address):
                continue
            if len(nodes) >= MAX_NODES:
                left_out += len(entry.get("Services") or [])
                continue
            nodes[name] = {"address": address, "member": any(check["CheckID"] == SERF for check in checks)}
            failing = {check["ServiceID"] for check in checks if check["Status"] != PASSING}
            if "" in failing:
                continue
            for service in sorted(entry.get("Services") or [], key=lambda one: one["ID"]):
                own = service.get("Address") or address
                if service["ID"] in failing or not packed(own):
                    continue
                title = service["Service"].lower()
                if count >= MAX_INSTANCES or (title not in services and len(services) >= MAX_SERVICES):
                    left_out += 1
                    continue
                count += 1
                weight = (service.get("Weights") or {}).get("Passing", 1)
                tags = sorted(tag.lower() for tag in service.get("Tags") or [])
                services.setdefault(title, []).append([name, own, int(service["Port"]), tags, int(weight)])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnapshotError(f"the catalog is not of the known shape ({type(error).__name__}: {error})") from error
    if not services or not any(node["member"] for node in nodes.values()):
        raise SnapshotError("there is no healthy service of a member in the catalog")
    now = time.time()
    return Snapshot(
        {
            "version": VERSION,
            "datacenter": datacenter,
            "taken": now,
            "confirmed": now,
            "index": index,
            "left_out": left_out,
            "nodes": nodes,
            "services": services,
        }
    )


def load(path: str) -> Snapshot | None:
    """Read a snapshot; None when there is none. Raise SnapshotError for one that cannot be used."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(MAX_FILE + 1)
        if len(text) > MAX_FILE:
            raise SnapshotError(f"{path} is longer than {MAX_FILE} characters")
        return Snapshot(json.loads(text))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise SnapshotError(f"{path} cannot be used: {error}") from error


def store(path: str, content: dict) -> None:
    """Replace the file in one step. Raise OSError."""
    handle, staged = tempfile.mkstemp(prefix=f".{os.path.basename(path)}-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream, separators=(",", ":"), sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staged, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
