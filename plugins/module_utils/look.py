# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a node tells of itself, for a plan to be made of: read-only, and bounded in time whatever state the daemons are in.

Each function returns one part of the answer of the module node_info. A part of which something could not be read says so under
"problem", in words for an operator; nothing here raises for what the node is like.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import sys
import threading
import time
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import authorized_keys, digest, manifest, on_disk
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import identity, public, running
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import dns, host

CONFIG = "/etc/cjdroute.conf"
IDENTITY = "/etc/cjdns/identity.json"
LINK_SECRET = "/etc/cjdns/link-secret"  # noqa: S105 (a path)
STARTED = "/run/cjdns/started.conf"
SECRETS = "/etc/vdloo-mesh/secrets.json"
REGISTRY = "/var/lib/vdloo-mesh/registry.json"
SETTINGS = "/var/lib/vdloo-mesh/settings.json"
SSH_KEY = "/etc/vdloo-mesh/ssh/id_ed25519.pub"
# Gone with the next boot, like whoever held it.
ROLLOUT = "/run/vdloo-mesh/rollout.json"
BOOTSTRAPPED = "/var/lib/vdloo-mesh/consul-bootstrapped"
# Best first; one that every sshd of the last ten years has comes first.
HOST_KEY_KINDS = ("ed25519", "ecdsa", "rsa")
PACKAGE_MANAGERS = ("apt-get", "dnf", "yum", "pacman", "apk", "zypper")
# Whatever the path of the user who logged in is.
FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of DNS.
TXT, CHAOS, DNS_TIMEOUT_S = 16, 3, 1.0
# Enough to tell two records apart.
DIGEST_CHARS = 16

# What a part looks like of which nothing is known.
NOTHING: dict[str, dict[str, typing.Any]] = {
    "system": {
        "os": {"id": "", "like": [], "version": ""},
        "kernel": "",
        "init": "",
        "package_manager": "",
        "python": {"path": "", "version": ""},
        "tun": False,
        "ipv6": False,
        "iproute": False,
        "arch": "",
        "ssh_user": "",
        "ssh_port": 0,
        "ssh_host_key": "",
        "ssh_key": "",
        "authorized_user": "",
        "authorized": {},
        "problem": "",
    },
    "mesh": {"generation": "", "seeds": [], "registry": {}, "settings": {}, "rollout": {}, "problem": ""},
    "cjdns": {"public_key": "", "address": "", "config": {}, "derived": {}, "pending": [], "established": [], "problem": ""},
    "consul": {
        "bootstrapped": "",
        "leader": "",
        "members": [],
        "raft": [],
        "servers": {},
        "tolerance": 0,
        "registry": {},
        "settings": "",
        "converged": {},
        "problem": "",
    },
    "resolver": {"settings": {}, "handed_over": False, "manager": "", "answers": False, "problem": ""},
    "manifests": {},
}


def look(timeout: float) -> dict[str, typing.Any]:
    """Look at everything at the same time; a part that hangs is given up after `timeout` seconds."""
    parts: dict[str, typing.Callable[[], dict]] = {
        "system": system,
        "mesh": mesh,
        "cjdns": cjdns,
        "consul": lambda: consul(timeout / 3),
        "resolver": host_resolver,
        "manifests": manifest.observe,
    }
    answers: dict[str, typing.Any] = {}

    def work(name: str) -> None:
        answers[name] = parts[name]()

    # Daemon threads: one that hangs must not keep the program from ending.
    threads = {name: threading.Thread(target=work, args=(name,), daemon=True) for name in parts}
    deadline = time.monotonic() + timeout
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    in_time = dict(answers)
    late = {"problem": f"no answer within {timeout:g} s"}
    return {name: in_time[name] if name in in_time else {**NOTHING[name], **(late if NOTHING[name] else {})} for name in parts}


def system() -> dict[str, typing.Any]:
    """The machine: OS, architecture, init system, and whether its kernel can carry an overlay."""
    release = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)', read_text("/etc/os-release") or "", re.MULTILINE))
    return {
        "os": {"id": release.get("ID", ""), "like": release.get("ID_LIKE", "").split(), "version": release.get("VERSION_ID", "")},
        "kernel": os.uname().release,
        "init": (read_text("/proc/1/comm") or "").strip(),
        "package_manager": next((name for name in PACKAGE_MANAGERS if shutil.which(name, path=FOLDERS)), ""),
        "python": {"path": sys.executable, "version": ".".join(map(str, sys.version_info[:3]))},
        "tun": os.path.exists("/dev/net/tun"),
        "ipv6": all((read_text(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") or "").strip() == "0" for name in ("default", "lo")),
        "iproute": shutil.which("ip", path=FOLDERS) is not None,
        "problem": "",
        **access(),
    }


def access() -> dict[str, typing.Any]:
    """How others reach this machine: {arch, ssh_user, ssh_port, ssh_host_key, ssh_key, authorized_user, authorized}.

    What cannot be told is empty or 0. `authorized` are the nodes that may log in as that user, {name: key}: the one of the node's record, who is the one
    that they use, or before there is a record the one that Ansible came as.
    """
    connection = os.environ.get("SSH_CONNECTION", "").split()
    user = os.environ.get("SUDO_USER") or (pwd.getpwuid(os.getuid()).pw_name if connection else "")
    host_keys = (public_key(f"/etc/ssh/ssh_host_{kind}_key.pub") for kind in HOST_KEY_KINDS)
    own_key = public_key(SSH_KEY)
    used = recorded_user(own_key) or user or "root"
    return {
        "arch": os.uname().machine,
        "ssh_user": user,
        "ssh_port": int(connection[3]) if len(connection) == 4 and connection[3].isdecimal() else 0,
        "ssh_host_key": next((key for key in host_keys if key), ""),
        "ssh_key": own_key,
        "authorized_user": used,
        "authorized": authorized_keys.let_in(used),
    }


def public_key(path: str) -> str:
    """The key in a file of ssh-keygen's, as "TYPE KEY"; empty without one."""
    return " ".join((read_text(path) or "").split("\n")[0].split()[:2])


def recorded_user(own_key: str) -> str:
    """The user as which other nodes log in here, as the registry has it; empty when it does not."""
    for record in mesh()["registry"].values() if own_key else ():
        ssh = record.get("ssh") if isinstance(record, dict) else None
        if isinstance(ssh, dict) and ssh.get("key") == own_key and isinstance(ssh.get("user"), str):
            return ssh["user"]
    return ""


def mesh() -> dict[str, typing.Any]:
    """What the node knows of its mesh: the generation of its secrets (empty without any), the registry, and the settings."""
    problems = []
    kept = []
    for path in (SECRETS, REGISTRY, SETTINGS):
        try:
            kept.append(on_disk.read_object(path) or {})
        except ValueError as error:
            kept.append({})
            problems.append(str(error))
    secrets, registry, settings = kept
    generation = secrets.get("generation", "")
    return {
        "generation": generation if isinstance(generation, str) else "",
        "seeds": [str(name) for name in secrets.get("seeds") or []],
        "registry": registry,
        "settings": settings,
        "rollout": rollout(),
        "problem": "; ".join(problems),
    }


def rollout() -> dict[str, typing.Any]:
    """The mark of settings that are being tried on this node, or were, with its age in seconds; empty without one that can be used."""
    try:
        marked = on_disk.read_object(ROLLOUT) or {}
        age = time.time() - os.stat(ROLLOUT).st_mtime if marked else 0.0
    except (ValueError, OSError):
        return {}
    whole = all(isinstance(marked.get(key), kind) for key, kind in (("by", str), ("values", str), ("stopped", str)))
    return {"by": marked["by"], "values": marked["values"], "stopped": marked["stopped"], "age": age} if whole else {}


def cjdns() -> dict[str, typing.Any]:
    """The node's identity, its configuration without the secrets, and what the running daemon lacks of it."""
    try:
        own = identity.read_file(IDENTITY)
    except (identity.IdentityError, OSError) as error:
        return {**NOTHING["cjdns"], "problem": str(error)}
    if own is None:
        return NOTHING["cjdns"]
    secret = (read_text(LINK_SECRET) or "").strip()
    seen = running.observe(CONFIG, STARTED)
    known = [record.get("public_key") for record in mesh()["registry"].values() if isinstance(record, dict)]
    return {
        **NOTHING["cjdns"],
        "public_key": own.public_key,
        "address": own.address,
        "config": public.describe(CONFIG),
        "derived": public.derived(secret, [key for key in known if isinstance(key, str)]) if secret else {},
        "pending": seen.pending,
        "established": seen.established,
    }


def consul(timeout: float) -> dict[str, typing.Any]:
    """What the agent on this node says: of itself, of the others, of the servers' health, and of the registry's copy in the store."""
    found = {**NOTHING["consul"], "bootstrapped": (read_text(BOOTSTRAPPED) or "").strip()}
    port = (manifest.load("consul") or {}).get("facts", {}).get("http_port", client.DEFAULT_PORT)
    agent = client.Client(f"http://127.0.0.1:{port}", timeout=timeout)
    try:
        found["members"] = [
            {
                "name": str(member.get("Name")),
                "address": str(member.get("Addr")),
                "alive": member.get("Status") == 1,
                "server": (member.get("Tags") or {}).get("role") == "consul",
            }
            for member in agent.members()
        ]
        found["leader"] = agent.leader()
        # Also without a leader a server knows who votes.
        found["raft"] = raft(agent)
        if found["leader"]:
            found.update(health(agent), **store(agent))
    except (client.ClientError, AttributeError, KeyError, TypeError) as error:
        found["problem"] = str(error)
    finally:
        agent.close()
    return found


def raft(agent: client.Client) -> list[dict]:
    """The raft peers; empty where nobody knows them."""
    try:
        peers = agent.get("/v1/operator/raft/configuration", {"stale": ""}).value["Servers"]
    except client.ClientError:
        return []
    return [{"name": peer["Node"], "address": peer["Address"], "voter": peer["Voter"], "leader": peer["Leader"]} for peer in peers]


def health(agent: client.Client) -> dict[str, typing.Any]:
    """Which servers are healthy, and how many voters may be lost."""
    # 429 is autopilot's way to say "unhealthy".
    told = agent.get("/v1/operator/autopilot/health", accept=(200, 429)).value
    return {
        "servers": {
            server["Name"]: {"healthy": bool(server.get("Healthy")), "since": str(server.get("StableSince") or "")}
            for server in told.get("Servers") or []
        },
        "tolerance": int(told.get("FailureTolerance") or 0),
    }


def store(agent: client.Client) -> dict[str, typing.Any]:
    """Digests of the records in the key/value store by name, that of the settings there, and when each node was last converged."""
    digests, converged, settings = {}, {}, ""
    for key, text in agent.kv(client.KV_PREFIX).items():
        folder, _slash, name = key[len(client.KV_PREFIX) :].partition("/")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if folder == "registry":
            digests[name] = digest.of(value)[:DIGEST_CHARS]
        elif (folder, name) == ("settings", ""):
            settings = digest.of(value)[:DIGEST_CHARS]
        elif folder == "converged" and isinstance(value, dict):
            converged[name] = str(value.get("at"))
    return {"registry": digests, "settings": settings, "converged": converged}


def host_resolver() -> dict[str, typing.Any]:
    """Whether the host asks dnsmasq, and the settings under which it was handed over."""
    try:
        found = host.Resolver()
        stored = found.stored()
        return {
            "settings": stored,
            "handed_over": found.handed_over(),
            "manager": found.detect(),
            "answers": bool(stored) and answers(found.address),
            "problem": "",
        }
    except (host.ResolverError, OSError) as error:
        return {**NOTHING["resolver"], "problem": str(error)}


def answers(address: str) -> bool:
    """Whether dnsmasq answers at all: it is asked what only it can know, so that nobody else has to be asked for it."""
    return dns.ask(address, "version.bind", TXT, CHAOS, DNS_TIMEOUT_S, tries=1) is not None


def read_text(path: str) -> str | None:
    """Read a file; None when there is none or it is not for these eyes."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None
