# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The user's hooks, as they lie in a folder for each event: what of it is one, and what is not and why.

A hook NAME is an executable file NAME, or a playbook NAME.yml or NAME.yaml. Beside it there may be NAME.when, a program that says with
exit code 0 that the hook is to run, and NAME.json with settings.
"""

from __future__ import annotations

import json
import os
import stat
import typing

WHEN, SETTINGS = ".when", ".json"
PLAYBOOKS = (".yml", ".yaml")
# What editors and packagers leave behind.
BACKUPS = ("~", ".bak", ".orig", ".swp", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew")
MAX_SETTINGS_BYTES = 64 * 1024
LEAST_TIMEOUT_S, MOST_TIMEOUT_S = 1, 3600
NO_SETTINGS: dict[str, typing.Any] = {"timeout_s": 60, "each_node": False}


class Hook(typing.NamedTuple):
    event: str
    name: str
    path: str
    when: str  # path of its predicate, "" without one
    timeout_s: float
    each_node: bool

    @property
    def is_playbook(self) -> bool:
        return self.path.endswith(PLAYBOOKS)


class Found(typing.NamedTuple):
    hooks: list[Hook]  # in the order of their names
    refused: dict[str, str]  # name of a hook that cannot be trusted or read, and why
    ignored: list[str]  # words on what is no hook at all


class RefusedError(Exception):
    """Why a hook is not run, and what to do."""


def find(folder: str, event: str) -> Found:
    """The hooks of an event. Never raises: one that is wrong keeps no other from running."""
    found = Found([], {}, [])
    place = os.path.join(folder, event)
    try:
        names = sorted(os.listdir(place))
    except FileNotFoundError:
        return found
    except OSError as error:
        return found._replace(refused={"": f"{place}: {error.strerror}"})
    try:
        for directory in (folder, place):
            _require_trusted(directory, stat.S_ISDIR)
    except RefusedError as error:
        return found._replace(refused={"": str(error)})
    for file in names:
        path = os.path.join(place, file)
        name = _name(file)
        if not name:
            if not file.endswith((WHEN, SETTINGS)) or file.startswith("."):
                found.ignored.append(f"{path} is not run: it is a hidden file or a backup")
            elif _stem(file) not in {_name(other) for other in names}:
                found.ignored.append(f"{path} belongs to no hook: there is neither {_stem(file)} nor {_stem(file)}.yml")
        elif any(hook.name == name for hook in found.hooks) or name in found.refused:
            found.refused[file] = f"{path} is not run: there is another hook of the name {name}"
        else:
            try:
                _require_trusted(path, stat.S_ISREG)
                if not path.endswith(PLAYBOOKS) and not os.access(path, os.X_OK):
                    found.ignored.append(f"{path} is not run: it is not executable (chmod 700 makes it so)")
                    continue
                found.hooks.append(_read(event, name, path, names))
            except (RefusedError, OSError) as error:
                found.refused[name] = str(error)
    return found


def _name(file: str) -> str:
    """The name of the hook that a file is; empty for what is none, or lies beside one."""
    if file.startswith(".") or file.endswith((*BACKUPS, WHEN, SETTINGS)):
        return ""
    return _stem(file) if file.endswith(PLAYBOOKS) else file


def _stem(file: str) -> str:
    return file.rpartition(".")[0]


def _read(event: str, name: str, path: str, names: list[str]) -> Hook:
    place = os.path.dirname(path)
    when = os.path.join(place, name + WHEN) if name + WHEN in names else ""
    if when:
        _require_trusted(when, stat.S_ISREG)
        if not os.access(when, os.X_OK):
            raise RefusedError(f"{when} is not executable: make it so (chmod 700), or remove it to have the hook run each time")
    settings = _settings(os.path.join(place, name + SETTINGS)) if name + SETTINGS in names else NO_SETTINGS
    return Hook(event, name, path, when, settings["timeout_s"], settings["each_node"])


def _settings(path: str) -> dict[str, typing.Any]:
    _require_trusted(path, stat.S_ISREG)
    with open(path, "rb") as stream:
        text = stream.read(MAX_SETTINGS_BYTES)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f'{path} is not JSON ({error}): write something like {{"timeout_s": 60, "each_node": false}}') from error
    if not isinstance(given, dict) or set(given) - set(NO_SETTINGS):
        strange = ", ".join(sorted(set(given) - set(NO_SETTINGS))) if isinstance(given, dict) else "what it holds"
        raise RefusedError(f"{path}: {strange:.80} is not known: write an object with timeout_s and each_node")
    found = {**NO_SETTINGS, **given}
    seconds = found["timeout_s"]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not LEAST_TIMEOUT_S <= seconds <= MOST_TIMEOUT_S:
        raise RefusedError(f"{path}: timeout_s is {seconds!r:.80}: write a number of seconds from {LEAST_TIMEOUT_S} to {MOST_TIMEOUT_S}")
    if not isinstance(found["each_node"], bool):
        raise RefusedError(f"{path}: each_node is {found['each_node']!r:.80}: write true or false")
    return found


def _require_trusted(path: str, is_kind: typing.Callable[[int], bool]) -> None:
    """Raise RefusedError for what somebody else than whoever runs this, who is root, could have written."""
    found = os.lstat(path)
    if not is_kind(found.st_mode):
        raise RefusedError(f"{path} is not run: put the file itself there, and no link")
    if found.st_uid != os.geteuid():
        raise RefusedError(f"{path} is not run: it belongs to another user (chown root makes it root's)")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(f"{path} is not run: others may write to it (chmod go-w mends that)")
