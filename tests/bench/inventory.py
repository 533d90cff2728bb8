# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the inventory plugin costs, next to a static file and to a script that say the same: inventory.py [NODES...]

For each number of nodes, `ansible-inventory --list` reads

    mesh      the plugin, which asks a server that answers as Consul does, a cjdns daemon (the test double) with live links, and a registry file
    script    an executable inventory that prints the same as JSON, out of a file
    yaml      a static inventory in YAML with the same content

one after the other, round by round. That the three really say the same is checked first.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import typing
from datetime import datetime, timezone
from pathlib import Path

import yaml
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

ROOT = Path(__file__).resolve().parents[2]
_AnsibleCollectionFinder(paths=[str(ROOT / "collections")])._install()
sys.path.insert(0, str(ROOT / "tests"))

import cjdroutes
import measure
import simulated

ROUNDS = {25: 5, 250: 5, 1200: 3}
KINDS = ("mesh", "script", "yaml")
BUDGET = (1200, 1.2)
PEERS = 5
BIN = Path(sys.executable).parent


# ---------------------------------------------------------------- the sources


@contextlib.contextmanager
def running(command: list[str], log: Path, **options: typing.Any) -> typing.Iterator[subprocess.Popen]:
    """A process that lives as long as the block."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def overlay(folder: Path) -> typing.Iterator[tuple[int, list[str]]]:
    """A cjdns double with live links to PEERS others; yields its admin port and the public keys, its own first."""

    def link(first: cjdroutes.Node, *others: cjdroutes.Node) -> None:
        for other in others:
            first.dial(other)

    with cjdroutes.running(folder, *(f"node{number:04}" for number in range(1, PEERS + 2)), change=link) as nodes:
        if not cjdroutes.wait_until(lambda: [peer["state"] for peer in nodes[0].admin.peers()] == ["ESTABLISHED"] * PEERS, 60):
            raise RuntimeError("the links of the cjdns double do not come up")
        yield nodes[0].admin_port, [node.key for node in nodes]


# ---------------------------------------------------------------- the three inventories


def environment(folder: Path) -> dict[str, str]:
    """What the programs see: nothing of this user's settings, and a home of their own."""
    (folder / "home").mkdir()
    (folder / "ansible.cfg").write_text(
        f"[defaults]\ncollections_path = {ROOT / 'collections'}\n[inventory]\nany_unparsed_is_failed = true\n"
    )
    return {
        "HOME": str(folder / "home"),
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home" / ".ansible"),
    }


def listing(source: Path, env: dict[str, str], *options: str) -> dict:
    """What `ansible-inventory --list` makes of a source."""
    command = [BIN / "ansible-inventory", "-i", source, "--list", *options]
    finished = subprocess.run(command, env=env, cwd=source.parent, capture_output=True, text=True, check=False)
    if finished.returncode != 0 or finished.stderr:
        raise RuntimeError(f"ansible-inventory -i {source.name} ended with {finished.returncode} and said:\n{finished.stderr}")
    return plain(json.loads(finished.stdout))


def plain(value: typing.Any) -> typing.Any:
    """The same without what only says where a value came from, with lists in order."""
    if isinstance(value, dict):
        if set(value) == {"__ansible_unsafe"}:
            return value["__ansible_unsafe"]
        return {key: plain(inner) for key, inner in value.items() if key != "profile"}
    if isinstance(value, list):
        return sorted(map(plain, value), key=json.dumps)
    return value


def write_inventories(folder: Path, mesh: simulated.Mesh, consul: str, cjdns_port: int, env: dict[str, str]) -> dict[str, Path]:
    """Write the three sources; return {kind: path}."""
    paths = {"mesh": folder / "mesh.yml", "script": folder / "script", "yaml": folder / "static.yml"}
    (folder / "registry.json").write_text(json.dumps(mesh.records, indent=2, sort_keys=True))
    options = {
        "plugin": "vdloo.mesh.mesh",
        "consul_addr": consul,
        "cjdns_addr": f"127.0.0.1:{cjdns_port}",
        "registry_file": str(folder / "registry.json"),
    }
    paths["mesh"].write_text(yaml.safe_dump(options))
    same = listing(paths["mesh"], env, "--export")
    (folder / "script.json").write_text(json.dumps(same))
    paths["script"].write_text(
        f"#!{sys.executable}\nimport sys\n\nwith open({str(folder / 'script.json')!r}) as file:\n    sys.stdout.write(file.read())\n"
    )
    paths["script"].chmod(0o755)
    hostvars = same.pop("_meta")["hostvars"]
    groups = {
        name: {
            **({"hosts": dict.fromkeys(group["hosts"])} if "hosts" in group else {}),
            **({"vars": group["vars"]} if "vars" in group else {}),
            **({"children": dict.fromkeys(group["children"])} if name == "all" else {}),
        }
        for name, group in same.items()
    }
    groups["all"]["hosts"] = hostvars
    paths["yaml"].write_text(yaml.safe_dump(groups, sort_keys=False, width=1000))
    return paths


def check_same(paths: dict[str, Path], mesh: simulated.Mesh, env: dict[str, str]) -> None:
    """Raise RuntimeError unless the three say the same, and what the mesh is. Every program has run once after this."""
    found = {kind: listing(path, env) for kind, path in paths.items()}
    hosts = found["mesh"]["_meta"]["hostvars"]
    reachable = sorted(set(mesh.records) - mesh.failed)
    asked = hosts["node0002"]["mesh_sources"]
    if (
        sorted(hosts) != sorted(mesh.records)
        or found["mesh"]["mesh"]["hosts"] != reachable
        or asked != ["cjdns", "consul", "kv", "registry"]
    ):
        raise RuntimeError("the plugin did not find the mesh that was simulated")
    for kind in KINDS:
        if found[kind] != found["mesh"]:
            differing = sorted(name for name in {*found[kind], *found["mesh"]} if found[kind].get(name) != found["mesh"].get(name))
            raise RuntimeError(f"the inventory {kind} says something else than the plugin, in {', '.join(differing)}")


# ---------------------------------------------------------------- the run


def bench(size: int, rounds: int, cjdns_port: int, public_keys: list[str]) -> list[dict]:
    """Measure the three over a mesh of `size` nodes; return the rounds, each {kind: figures}."""
    with tempfile.TemporaryDirectory(prefix="vdloo-mesh-bench-") as name:
        folder = Path(name)
        env = environment(folder)
        mesh = simulated.Mesh(size, public_keys)
        (folder / "replies.json").write_text(json.dumps(mesh.replies()))
        command = [sys.executable, str(Path(__file__).with_name("consul_server.py")), str(folder / "replies.json")]
        with running(command, folder / "consul.log", stdout=subprocess.PIPE, text=True) as server:
            consul = server.stdout.readline().strip()
            paths = write_inventories(folder, mesh, consul, cjdns_port, env)
            check_same(paths, mesh, env)
            found = []
            for number in range(rounds):
                # Nobody is always the first.
                order = KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]
                found.append({})
                for kind in order:
                    output = folder / "output.json"
                    command = [str(BIN / "ansible-inventory"), "-i", str(paths[kind]), "--list", "--output", str(output)]
                    found[-1][kind] = measure.run(command, env, folder)
                    print(f"{size} nodes, round {number + 1} of {rounds}, {kind}: {found[-1][kind]['seconds']} s", file=sys.stderr)
        return found


def summary(rounds: list[dict]) -> dict:
    """{kind: {figure: its median}}."""
    return {
        kind: {figure: round(statistics.median(one[kind][figure] for one in rounds), 3) for figure in rounds[0][kind]} for kind in KINDS
    }


def report(sizes: dict[int, dict]) -> str:
    rows = []
    for size, found in sizes.items():
        median = found["median"]
        ratios = [f"{median['mesh']['seconds'] / median[kind]['seconds']:.2f}" for kind in ("script", "yaml")]
        rows.append(
            [
                str(size),
                *(f"{median[kind]['seconds']:.2f}" for kind in KINDS),
                *ratios,
                *(f"{median[kind]['peak_mib']:.0f}" for kind in KINDS),
            ]
        )
    head = ["nodes", *(f"{kind}, s" for kind in KINDS), "to script", "to yaml", *(f"{kind}, MiB" for kind in KINDS)]
    return measure.table(head, rows)


def main() -> None:
    try:
        sizes = [int(argument) for argument in sys.argv[1:]] or list(ROUNDS)
    except ValueError:
        sizes = [0]
    if any(not PEERS < size <= 9999 for size in sizes):
        sys.exit(f"usage: script/bench inventory [NODES...], each from {PEERS + 1} to 9999")
    # Ended by a signal, it stops what it started all the same.
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(143))
    result = {
        "measured_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": measure.machine(),
        "versions": measure.versions("ansible-core", "jinja2", "pyyaml"),
        "command": "ansible-inventory --list",
        "sizes": {},
        "ratios": {"vs_script": {}, "vs_yaml": {}},
    }
    with tempfile.TemporaryDirectory(prefix="vdloo-mesh-bench-") as folder, overlay(Path(folder)) as (cjdns_port, public_keys):
        for size in sizes:
            rounds = bench(size, ROUNDS.get(size, 3), cjdns_port, public_keys)
            median = summary(rounds)
            result["sizes"][size] = {"rounds": rounds, "median": median}
            for kind in ("script", "yaml"):
                result["ratios"][f"vs_{kind}"][size] = round(median["mesh"]["seconds"] / median[kind]["seconds"], 3)
    path = measure.write("inventory", result)
    print(report(result["sizes"]))
    if BUDGET[0] in sizes:
        ratio = result["ratios"]["vs_script"][BUDGET[0]]
        kept = "kept" if ratio <= BUDGET[1] else "MISSED"
        print(f"\nBudget: at {BUDGET[0]} nodes at most {BUDGET[1]} times the script inventory; {kept} with {ratio:.2f}.")
    print(f"All rounds: {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
