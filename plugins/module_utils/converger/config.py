# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of the program: one JSON object, which the role converger writes."""

from __future__ import annotations

import json
import os
import shutil
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import membership
from ansible_collections.vdloo.mesh.plugins.module_utils.registry import DNS_LABEL

PATH = "/etc/vdloo-mesh/converger.json"
# What cron gives a job has no sbin, where many a program is that a role calls.
PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_BYTES = 64 * 1024
# Consul takes no other TTL of a session.
LEAST_TTL_S, MOST_TTL_S = 10, 86400
YEAR_S = 366 * 86400
REPAIR = "run vdloo.mesh.site over this node from another one, or write it by hand"


class ConfigError(Exception):
    """What is wrong with the settings, and what to do."""


class Config(typing.NamedTuple):
    """The settings. Times are in seconds."""

    node: str
    period_s: float
    lock_ttl_s: int
    island_after_s: float
    consul_addr: str
    ansible_playbook: str  # a path, or a name to be found in PATH
    ansible_cfg: str
    inventory: str
    playbook: str  # a name such as vdloo.mesh.site, or a path
    timeout_s: float
    state_dir: str = "/var/lib/vdloo-mesh"  # outlives a boot
    run_dir: str = "/run"  # does not
    events_dir: str = membership.FOLDER
    event_quiet_s: float = 10
    minimum_nodes: int = 0
    minimum_grace_s: float = 300
    hooks_dir: str = "/etc/vdloo-mesh/hooks"
    hooks_timeout_s: float = 600

    def state(self, name: str) -> str:
        return os.path.join(self.state_dir, name)

    def run(self, name: str) -> str:
        return os.path.join(self.run_dir, "vdloo-mesh-converge." + name)


def load(path: str) -> tuple[Config, list[str]]:
    """Read the settings; return them, and the names of those that this program does not know. Raises ConfigError."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: {REPAIR}") from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}): {REPAIR}") from error
    if not isinstance(found, dict) or len(text) > MAX_BYTES:
        raise ConfigError(f"{path} does not hold a JSON object of up to {MAX_BYTES} bytes: {REPAIR}")
    missing = [name for name in Config._fields if name not in found and name not in Config._field_defaults]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}: {REPAIR}")
    given = {name: value for name, value in found.items() if name in Config._fields}
    for name, value in given.items():
        problem = _CHECKS[name](value)
        if problem:
            raise ConfigError(f"{path}: {name} is {value!r:.80}: {problem}")
    # A setting of a newer build must not keep an older one from repairing the mesh.
    return Config(**given), sorted(set(found) - set(given))


def require_programs(config: Config) -> str:
    """Return the path of ansible-playbook. Raises ConfigError when it, or a file that it is to be given, is missing."""
    program = shutil.which(config.ansible_playbook, path=search_path())
    if program is None:
        raise ConfigError(
            f"{config.ansible_playbook} is not an executable program: run vdloo.mesh.site over this node from another one, "
            "which installs Ansible where it can"
        )
    for path in (config.ansible_cfg, config.inventory):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{path} cannot be read: {REPAIR}")
    return program


def search_path() -> str:
    """The PATH of this process, with what it lacks of the usual folders."""
    folders = [folder for folder in os.environ.get("PATH", "").split(":") if folder]
    return ":".join(dict.fromkeys(folders + PROGRAMS.split(":")))


def _name(value: object) -> str:
    return "" if isinstance(value, str) and DNS_LABEL.fullmatch(value) else "write the name of this node in the mesh"


def _number(least: float, most: float, whole: bool = False) -> typing.Callable[[object], str]:
    kinds = (int,) if whole else (int, float)

    def check(value: object) -> str:
        if isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most:
            return ""
        return f"write a {'whole ' if whole else ''}number of seconds from {least:g} to {most:g}"

    return check


def _count(value: object) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else "write a number of nodes, 0 for none"


def _address(value: object) -> str:
    wrong = "write the address of Consul's agent, as in 127.0.0.1:8500"
    try:
        return "" if isinstance(value, str) and client.split_addr(value) else wrong
    except ValueError:
        return wrong


def _path(value: object) -> str:
    return "" if isinstance(value, str) and os.path.isabs(value) and "\0" not in value else "write a path that begins with /"


def _word(value: object) -> str:
    # What begins with a dash would be an option of ansible-playbook.
    return "" if isinstance(value, str) and value and value.isprintable() and not value.startswith("-") else "write a name or a path"


_CHECKS: dict[str, typing.Callable[[object], str]] = {
    "node": _name,
    "period_s": _number(1, YEAR_S),
    "lock_ttl_s": _number(LEAST_TTL_S, MOST_TTL_S, whole=True),
    "island_after_s": _number(0, YEAR_S),
    "consul_addr": _address,
    "ansible_playbook": _word,
    "ansible_cfg": _path,
    "inventory": _path,
    "playbook": _word,
    "timeout_s": _number(1, YEAR_S),
    "state_dir": _path,
    "run_dir": _path,
    "events_dir": _path,
    "event_quiet_s": _number(0, 3600),
    "minimum_nodes": _count,
    "minimum_grace_s": _number(0, YEAR_S),
    "hooks_dir": _path,
    "hooks_timeout_s": _number(1, 86400),
}
