# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the program tells of itself, and how a person reads it."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
import typing

from . import wire
from .config import Config
from .snapshot import SnapshotError, load

NAME = (b"status", b"mesh-names")
QUESTION = wire.encode_name(NAME) + struct.pack("!2H", wire.TXT, wire.CHAOS)
TIMEOUT_S = 3.0
FRESH, NOT_RUNNING, STALE = 0, 1, 3


def of(server: typing.Any) -> dict:
    """The status of a running server. Times are seconds since the epoch, and 0 for never; ages are seconds."""
    answerer, watch = server.answerer, server.watch
    snapshot = answerer.snapshot
    return {
        "answers_from": "consul" if not watch.stale else "snapshot" if answerer.usable() else "nothing",
        "stale": watch.stale,
        "why": watch.why,
        "since": watch.since,
        "started": server.started,
        "snapshot": {
            "age": snapshot.age() if snapshot else None,
            "usable": answerer.usable() is not None,
            "taken": snapshot.taken if snapshot else 0,
            "last_good": watch.last_good,
            "services": len(snapshot.services) if snapshot else 0,
            "instances": sum(map(len, snapshot.services.values())) if snapshot else 0,
            "nodes": len(snapshot.nodes) if snapshot else 0,
            "left_out": snapshot.left_out if snapshot else 0,
            "problem": watch.problem,
        },
        "silent": sorted(answerer.overlay.named(answerer.pings.silent())),
        "pings_problem": answerer.pings.problem,
        "spare_problem": server.spare.problem,
        "registry": {"nodes": len(answerer.overlay.addresses), "problem": answerer.overlay.problem},
        "answered": dict(answerer.counts),
    }


def fetch(config: Config) -> dict:
    """Ask the running program. Raise OSError when it does not answer."""
    query = wire.encode(wire.Message(0, 0, (wire.Question(NAME, wire.TXT, wire.CHAOS),)))
    try:
        with socket.create_connection(config.listen, timeout=TIMEOUT_S) as sock:
            sock.sendall(struct.pack("!H", len(query)) + query)
            stream = sock.makefile("rb")
            packet = stream.read(struct.unpack("!H", stream.read(2))[0])
        data, text = wire.decode(packet).answers[0].data, b""
        while data:
            text, data = text + data[1 : data[0] + 1], data[data[0] + 1 :]
        return json.loads(text)
    except (ValueError, IndexError, struct.error) as error:
        raise OSError(f"what answers on port {config.listen.port} is not mesh-names") from error


def ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def lines(found: dict) -> list[str]:
    """A status in words."""
    snapshot, registry = found["snapshot"], found["registry"]
    source = {
        "consul": "Consul, without the nodes that gossip knows as dead",
        "snapshot": "STALE: what was last known, where Consul has no answer",
        "nothing": "STALE: nothing is known of Consul's names",
    }[found["answers_from"]]
    told = [f"answers:  {source}, for {ago(time.time() - found['since'])}"]
    if found["why"]:
        told.append(f"why:      {found['why']}")
    if snapshot["last_good"]:
        told.append(
            f"snapshot: {snapshot['services']} services with {snapshot['instances']} instances on {snapshot['nodes']} nodes; "
            f"known to be right {ago(snapshot['age'])} ago{'' if snapshot['usable'] else ', which is too old to be used'}"
        )
    else:
        told.append("snapshot: none yet")
    if snapshot["left_out"]:
        told.append(f"          {snapshot['left_out']} instances are left out: there are more than a snapshot holds")
    told.append(f"registry: {registry['nodes']} nodes")
    if found["silent"]:
        told.append(f"silent:   no ping is answered by {', '.join(found['silent'])}: others are named where there are any")
    told += [
        f"problem:  {problem}"
        for problem in (snapshot["problem"], registry["problem"], found["pings_problem"], found["spare_problem"])
        if problem
    ]
    told.append("answered: " + (", ".join(f"{count} {source}" for source, count in sorted(found["answered"].items())) or "nothing yet"))
    return told


def command(config: Config, as_json: bool) -> int:
    """Print the status. Return 0 while Consul answers, 3 while what is answered may be old, and 1 when the program does not run."""
    try:
        found = fetch(config)
    except OSError as error:
        kept = ""
        try:
            snapshot = load(config.snapshot)
            kept = f"; its snapshot was right {ago(snapshot.age())} ago" if snapshot else ""
        except SnapshotError as damaged:
            kept = f"; {damaged}"
        sys.stdout.write(f"mesh-names does not answer ({error}){kept}: see `journalctl -u mesh-names`\n")
        return NOT_RUNNING
    sys.stdout.write((json.dumps(found, indent=2, sort_keys=True) if as_json else "\n".join(lines(found))) + "\n")
    return STALE if found["stale"] else FRESH
