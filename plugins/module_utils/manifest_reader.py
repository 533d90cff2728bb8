# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the manifest of a role as it is written: check it, and fill in what it leaves out."""

from __future__ import annotations

import os
import re

from ansible_collections.vdloo.mesh.plugins.module_utils import systemd

KEYS = {
    "directories": {"path", "owner", "group", "mode"},
    "files": {"path", "content", "secret", "absent", "drop", "owner", "group", "mode", "validate"},
    "checks": {"directory", "suffixes", "command"},
    "programs": {"path", "source"},
    "services": {"name", "restart", "reload"},
}
MODE = re.compile(r"[0-7]{3,4}\Z")
ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\$?\Z")


class ManifestError(ValueError):
    """A manifest that cannot be applied; the message names the entry and says what to do."""


def read(manifest: dict, secrets: dict | None = None) -> dict:
    """Check a manifest and fill in what it leaves out. `secrets` has the contents of its secret files by path; without it, they have none.

    Returns {"directories": {path: {"owner", "group", "mode"}},
             "files": {path: {"owner", "group", "mode", "content": bytes or None for one that must not be there, "secret", "drop",
                       "validate": argv or []}},
             "checks": [{"directory", "suffixes", "command"}], "programs": {path: source}, "services": {name: {"restart", "reload"}}}.
    """
    if not isinstance(manifest, dict):
        raise ManifestError(f"a manifest is a dictionary with {_listed(KEYS)}, and not {type(manifest).__name__}")
    _known("the manifest", manifest, set(KEYS))
    entries = {section: _entries(section, manifest.get(section) or []) for section in KEYS}
    plain = {
        "directories": _by_path("directories", entries["directories"], lambda where, entry: _attributes(where, entry, "0755")),
        "files": _by_path("files", entries["files"], lambda where, entry: _file(where, entry, secrets)),
        "checks": [_check(f"checks[{index}]", entry) for index, entry in enumerate(entries["checks"])],
        "programs": _by_path("programs", entries["programs"], lambda where, entry: _text(where, entry, "source")),
        "services": _services(entries["services"]),
    }
    strangers = set(secrets or {}) - {path for path, entry in plain["files"].items() if entry["secret"]}
    if strangers:
        raise ManifestError(f"{_listed(strangers)} is among the secrets, and no secret file of the manifest")
    for path in plain["files"]:
        if path in plain["directories"]:
            raise ManifestError(f"{path} is among the files and the directories of the manifest: leave one of the two out")
    return plain


def _listed(names) -> str:
    return ", ".join(sorted(names))


def _known(where: str, entry: dict, keys: set) -> None:
    unknown = {str(key) for key in entry} - keys
    if unknown:
        raise ManifestError(f"{where}: {_listed(unknown)} is not known: the keys are {_listed(keys)}")


def _entries(section: str, entries) -> list[dict]:
    if not isinstance(entries, (list, tuple)):
        raise ManifestError(f"{section} is not a list: give a list of entries with {_listed(KEYS[section])}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ManifestError(f"{section}[{index}] is not a dictionary: give {_listed(KEYS[section])}")
        _known(f"{section}[{index}]", entry, KEYS[section])
    return list(entries)


def _text(where: str, entry: dict, key: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{where}: {key} is missing or no text")
    return str(value)


def _path(where: str, value) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or "\n" in value:
        raise ManifestError(f"{where}: {value!r} is not an absolute path: write it from / on")
    if os.path.normpath(value) != value:
        raise ManifestError(f"{where}: {value} can be written in more than one way: write {os.path.normpath(value)}")
    return str(value)


def _by_path(section: str, entries: list[dict], build) -> dict:
    found = {}
    for index, entry in enumerate(entries):
        path = _path(f"{section}[{index}]", entry.get("path"))
        if path in found:
            raise ManifestError(f"{path} is twice among the {section} of the manifest: leave one out")
        found[path] = build(path, entry)
    return found


def _attributes(where: str, entry: dict, mode: str) -> dict[str, str]:
    mode = entry.get("mode", mode)
    if not isinstance(mode, str) or not MODE.match(mode):
        raise ManifestError(f'{where}: the mode {mode!r} is not an octal number in quotes: write it like "0644"')
    names = {key: _text(where, entry, key, "root") for key in ("owner", "group")}
    for key, name in names.items():
        if not ACCOUNT.match(name):
            raise ManifestError(f"{where}: the {key} {name!r} is not a name: a number means another account on each node")
    return {**names, "mode": mode.rjust(4, "0")}


def _file(where: str, entry: dict, secrets: dict | None) -> dict:
    given = [key for key in ("content", "secret", "absent") if (key in entry if key == "content" else _flag(where, entry, key))]
    if len(given) != 1:
        raise ManifestError(f"{where}: exactly one of content, secret and absent is needed")
    content = None if given == ["absent"] else b""
    if given == ["content"]:
        content = _content(where, entry["content"])
    elif given == ["secret"] and secrets is not None:
        if where not in secrets:
            raise ManifestError(f"{where}: its content is not among the secrets: give it there, under this path")
        content = _content(where, secrets[where])
    validate = _command(where, "validate", entry["validate"]) if entry.get("validate") else []
    if content is None and validate:
        raise ManifestError(f"{where}: a file that must not be there cannot be validated")
    attributes = _attributes(where, entry, "0644")
    return {**attributes, "content": content, "secret": given == ["secret"], "drop": _flag(where, entry, "drop"), "validate": validate}


def _flag(where: str, entry: dict, key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise ManifestError(f"{where}: {key} is neither true nor false")
    return value


def _content(where: str, content) -> bytes:
    # Not repeated in the message: it may be a secret.
    if not isinstance(content, str):
        raise ManifestError(
            f"{where}: the content is {type(content).__name__} and not text: turn it into text, for example with to_nice_json"
        )
    return content.encode()


def _command(where: str, key: str, argv) -> list[str]:
    if not isinstance(argv, (list, tuple)) or not all(isinstance(part, str) and part for part in argv):
        raise ManifestError(f"{where}: {key} is not a list of words: write [program, argument, ...]")
    if not any("%s" in part for part in argv[1:]):
        raise ManifestError(f"{where}: {key} has no %s, which stands for the place that is to be validated")
    return [str(part) for part in argv]


def _check(where: str, entry: dict) -> dict:
    suffixes = entry.get("suffixes", [])
    if not isinstance(suffixes, (list, tuple)) or not all(isinstance(suffix, str) for suffix in suffixes):
        raise ManifestError(f"{where}: suffixes is not a list of endings such as .json")
    directory = _path(where, entry.get("directory"))
    return {
        "directory": directory,
        "suffixes": [str(suffix) for suffix in suffixes],
        "command": _command(where, "command", entry.get("command")),
    }


def _services(entries: list[dict]) -> dict[str, dict[str, list[str]]]:
    services = {}
    for index, entry in enumerate(entries):
        name = _text(f"services[{index}]", entry, "name")
        if not systemd.UNIT_NAME.match(name) or "." not in name.strip("."):
            raise ManifestError(f"services[{index}]: {name!r} is not the full name of a unit such as h2o.service")
        if name in services:
            raise ManifestError(f"{name} is twice among the services of the manifest: leave one out")
        lists = {key: entry.get(key) or [] for key in ("restart", "reload")}
        for key, paths in lists.items():
            if not isinstance(paths, (list, tuple)):
                raise ManifestError(f"{name}: {key} is not a list of paths")
        services[name] = {key: [_path(f"{name}: {key}", path) for path in paths] for key, paths in lists.items()}
    return services
