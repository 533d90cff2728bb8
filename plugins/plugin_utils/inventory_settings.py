# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the inventory sets of the variables that travel, and what of it has to stay here."""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Iterator
from pathlib import Path

# Ansible has no public way to tell a decrypted text from another one.
from ansible._internal._datatag._tags import Origin, VaultedValue
from ansible.errors import AnsibleError
from ansible.parsing.vault import EncryptedString
from ansible.template import is_trusted_as_template
from ansible_collections.vdloo.mesh.plugins.module_utils import settings
from ansible_collections.vdloo.mesh.plugins.plugin_utils import memory, rendering

VAULT_MARK = b"$ANSIBLE_VAULT;"
# In whose eyes a variable is seen that belongs to no role; it reads nothing of a role's own.
NO_ROLE = "node"


class Told(typing.NamedTuple):
    """What the inventory sets: for each host {variable: value}, and {variable: why it does not travel}."""

    variables: dict[str, dict[str, typing.Any]]
    withheld: dict[str, dict[str, str]]


class WithheldError(Exception):
    """Why a value does not travel."""


def names(roles: rendering.Roles) -> dict[str, str]:
    """The variables that travel, each with the role that it is seen by."""
    found = dict.fromkeys(settings.MESH_WIDE, NO_ROLE)
    for role in settings.ROLES:
        if (rendering.ROLES / role / "defaults").is_dir():
            found.update({name: role for name in roles.variables(role)[0] if settings.is_setting(name)})
    return found


def told(hosts: dict[str, rendering.Host], roles: rendering.Roles, rendered: memory.Memory) -> Told:
    """Read what the inventory sets for each host. Defaults of roles are none of it, as nobody is asked for them."""
    role_of = names(roles)
    found = Told({name: {} for name in hosts}, {name: {} for name in hosts})
    for name, host in hosts.items():
        for variable in sorted(host.raw.keys() & role_of.keys()):
            try:
                found.variables[name][variable] = value(host, role_of[variable], variable, rendered)
            except WithheldError as error:
                found.withheld[name][variable] = str(error)
    return found


def value(host: rendering.Host, role: str, variable: str, rendered: memory.Memory) -> typing.Any:
    """One variable as the role will see it. Raises WithheldError for a secret, and for what only the node could tell."""
    raw = host.raw[variable]
    if any(map(is_trusted_as_template, rendering.templates(raw))):
        read = host.read(role, [variable], {})
        for name in sorted(read):
            reason = secret(read[name].value)
            if reason:
                raise WithheldError(reason if name == variable else f"reads {name}, which {reason}")
        try:
            told_value = rendered.recall(
                rendering.digest_of(f"{role} {variable}", read), functools.partial(host.role_value, role, variable, {})
            )
        except AnsibleError as error:
            raise WithheldError(f"cannot be told before the run ({' '.join(str(error).split())})") from error
    else:
        reason = secret(raw)
        if reason:
            raise WithheldError(reason)
        told_value = rendering.plain(raw)
    try:
        json.dumps(told_value)
    except (TypeError, ValueError) as error:
        raise WithheldError(f"is no plain JSON ({error})") from error
    return told_value


def secret(found: typing.Any) -> str:
    """Say in which way a value is vaulted; empty when it is not."""
    for leaf in _leaves(found):
        if isinstance(leaf, EncryptedString) or VaultedValue.is_tagged_on(leaf):
            return "is vaulted"
        origin = Origin.get_tag(leaf)
        if origin is not None and origin.path and _is_vaulted(origin.path):
            return f"comes from {origin.path}, which is vaulted"
    return ""


def _leaves(found: typing.Any) -> Iterator[typing.Any]:
    if isinstance(found, dict):
        for item in found.values():
            yield from _leaves(item)
    elif isinstance(found, (list, tuple)):
        for item in found:
            yield from _leaves(item)
    else:
        yield found


@functools.cache
def _is_vaulted(path: str) -> bool:
    try:
        with Path(path).open("rb") as stream:
            return stream.read(len(VAULT_MARK)) == VAULT_MARK
    except OSError:
        return False
