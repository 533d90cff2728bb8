# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manifest of a role: what the role manages on a node, and how that differs from what is there.

`wanted` and `drift` are pure. `observe` looks at the node through the lists that the module manifest has recorded there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re

from ansible_collections.vdloo.mesh.plugins.module_utils import on_disk, systemd
from ansible_collections.vdloo.mesh.plugins.module_utils.manifest_reader import read

STATE_DIR = "/var/lib/vdloo-mesh/manifests"
RECORD_VERSION = 1
ROLE = re.compile(r"[a-z][a-z0-9_]*\Z")


def attributes_of(entry: dict) -> dict[str, str]:
    return {key: entry[key] for key in ("mode", "owner", "group")}


def _digest(entry: dict) -> str:
    return hashlib.sha256(entry["content"]).hexdigest()


def wanted(manifest: dict) -> dict:
    """Tell what should be there, in the shape of one role of `observe`."""
    plain = read(manifest)
    return {
        "files": {
            # A secret is not known here: on the node it is compared with what was put there.
            path: None if entry["content"] is None else {"sha256": None if entry["secret"] else _digest(entry), **attributes_of(entry)}
            for path, entry in plain["files"].items()
        },
        "directories": {path: attributes_of(entry) for path, entry in plain["directories"].items()},
        "programs": {path: {"source": source} for path, source in plain["programs"].items()},
        "services": {name: {"running": True, "enabled": True, "reads": reads} for name, reads in plain["services"].items()},
    }


def record(role: str, plain: dict, facts: dict, state_dir: str = STATE_DIR) -> dict:
    """Build the list of what a role manages: no contents. A program that is as it was recorded is not hashed anew."""
    old = (load(role, state_dir) or {}).get("programs", {})
    programs = {path: {"source": source, **on_disk.program(path, old.get(path))} for path, source in plain["programs"].items()}
    return {
        "version": RECORD_VERSION,
        "role": role,
        "facts": facts,
        "files": {
            # Not whether it is there: a file that comes and goes is managed all the same.
            path: {
                **attributes_of(entry),
                "secret": entry["secret"],
                **({"sha256": _digest(entry)} if entry["secret"] else {}),
                **({"drop": True} if entry["drop"] else {}),
            }
            for path, entry in plain["files"].items()
        },
        "directories": {path: attributes_of(entry) for path, entry in plain["directories"].items()},
        "programs": programs,
        "services": plain["services"],
    }


def record_path(role: str, state_dir: str = STATE_DIR) -> str:
    return os.path.join(state_dir, f"{role}.json")


def load(role: str, state_dir: str = STATE_DIR) -> dict | None:
    """Read what is recorded of a role; None when there is nothing, or nothing that can be used."""
    try:
        with open(record_path(role, state_dir), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("version") != RECORD_VERSION or found.get("role") != role:
        return None
    whole = all(
        isinstance(found.get(section), dict) and all(isinstance(entry, dict) for entry in found[section].values())
        for section in ("files", "directories", "programs", "services")
    )
    reads = whole and all(
        isinstance(paths, list) and all(isinstance(path, str) for path in paths)
        for entry in found["services"].values()
        for paths in (entry.get("restart"), entry.get("reload"))
    )
    units = whole and all(systemd.UNIT_NAME.match(name) for name in found["services"])
    return found if reads and units and isinstance(found.get("facts"), dict) else None


def observe(state_dir: str = STATE_DIR, run=systemd.run_command) -> dict[str, dict]:
    """Look at all that the recorded manifests name: {role: {"facts", "files", "directories", "programs", "services"}}.

    A file is {"sha256", "mode", "owner", "group"} and, for a secret, "recorded", the digest of what was put there; a directory is the same
    without digests, a program {"source", "recorded", "sha256",
    "version"} and a service as in systemd.services, with "reads" beside; None or "" stands for what is not there. A role without a usable record is left out.
    It never raises: with a systemd that does not answer no service runs.
    """
    try:
        names = sorted(os.listdir(state_dir))
    except OSError:
        return {}
    roles = [name[: -len(".json")] for name in names if name.endswith(".json")]
    records = {role: found for role, found in ((role, load(role, state_dir)) for role in roles if ROLE.match(role)) if found}
    services = _look_at_services(records, run)
    return {
        role: {
            "facts": found["facts"],
            "files": {path: _look_at_file(path, entry) for path, entry in found["files"].items()},
            "directories": {path: on_disk.directory(path) for path in found["directories"]},
            "programs": {path: _look_at_program(path, entry) for path, entry in found["programs"].items()},
            "services": services[role],
        }
        for role, found in records.items()
    }


def _look_at_file(path: str, entry: dict) -> dict[str, str] | None:
    found = on_disk.file(path)
    return {**found, "recorded": str(entry.get("sha256"))} if found and entry.get("secret") is True else found


def _look_at_program(path: str, entry: dict) -> dict[str, str]:
    found = on_disk.program(path, entry)
    return {
        "source": entry.get("source", ""),
        "recorded": entry.get("sha256", ""),
        "sha256": found["sha256"],
        "version": found["version"],
    }


def _look_at_services(records: dict[str, dict], run) -> dict[str, dict]:
    # Two roles may look at one service through files of their own, so that units are asked for by role, but all at once.
    units = sorted({name for found in records.values() for name in found["services"]})
    try:
        shown = systemd.show(units, systemd.PROPERTIES, run)
    except systemd.SystemdError:
        shown = {name: {} for name in units}
    clocks = systemd.clocks()
    return {
        role: {name: {**systemd.judge(shown[name], reads, *clocks), "reads": reads} for name, reads in found["services"].items()}
        for role, found in records.items()
    }


def drift(wanted: dict, observed: dict | None) -> list[str]:
    """Name all that differs between what should be on a node and what is; [] when nothing does."""
    if observed is None:
        return ["not managed yet"]
    reasons = []
    for section in ("directories", "files"):
        for path, entry in wanted[section].items():
            if path not in observed[section]:
                reasons.append(f"{path} is not managed yet")
            else:
                reasons.extend(_difference(path, entry, observed[section][path]))
    for path, entry in wanted["programs"].items():
        reasons.extend(_program_drift(path, entry, observed["programs"].get(path)))
    for name, entry in wanted["services"].items():
        reasons.extend(_service_drift(name, entry, observed["services"].get(name)))
    for section in ("directories", "files", "programs", "services"):
        reasons.extend(f"{name} is no longer managed" for name in observed[section] if name not in wanted[section])
    return reasons


def _difference(path: str, entry: dict | None, found: dict | None) -> list[str]:
    if found is None:
        return [f"{path} is missing"] if entry is not None else []
    if entry is None:
        return [f"{path} should not be there"]
    if "sha256" in entry and found["sha256"] != (entry["sha256"] or found.get("recorded")):
        return [f"{path} differs"]
    parts = [f"{key} {found.get(key)} instead of {entry[key]}" for key in ("mode", "owner", "group") if found.get(key) != entry[key]]
    return [f"{path} has the {', '.join(parts)}"] if parts else []


def _program_drift(path: str, entry: dict, found: dict | None) -> list[str]:
    if found is None:
        return [f"program {path} is not managed yet"]
    if not found["sha256"]:
        return [f"program {path} is missing"]
    reasons = []
    if found["source"] != entry["source"]:
        reasons.append(f"program {path} comes from {found['source']} instead of {entry['source']}")
    if found["sha256"] != found["recorded"]:
        reasons.append(f"program {path} was replaced")
    return reasons


def _service_drift(name: str, entry: dict, found: dict | None) -> list[str]:
    if found is None:
        return [f"{name} is not managed yet"]
    reasons = []
    if not found["running"]:
        reasons.append(f"{name} does not run")
    if not found["enabled"]:
        reasons.append(f"{name} does not start at boot")
    reasons.extend(f"{name} has not read {path}" for path in [*found["restart"], *found["reload"]])
    if found["reads"] != entry["reads"]:
        reasons.append(f"{name} reads other files than recorded")
    return reasons
