# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The nodes of the mesh as their registry has them: which overlay address a node has, whatever the state of Consul."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
import typing

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# How often at most the file is looked at, in seconds.
LOOK_EVERY = 1.0


class Overlay:
    """What a registry file says of its members. It is read again when it has changed; what was known outlives a damaged file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem = ""
        self.addresses: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self._seen: object = ()
        self._next = 0.0

    def refresh(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_EVERY
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            # Before the first run for the mesh there is none, and nobody has to be told.
            self.problem = f"{self.path} is gone: the nodes that it had are answered" if self.addresses else ""
            self._seen = ()
            return
        except OSError as error:
            self.problem = f"{self.path} cannot be read ({error.strerror})"
            return
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            with open(self.path, encoding="utf-8") as stream:
                self.addresses = members(json.load(stream))
        except (OSError, ValueError, RecursionError) as error:
            self.problem = f"{self.path} is damaged ({error}): the nodes that it had before are answered"
            return
        self.problem = ""
        # Sorted, so that two names of one address always end with the same one.
        self.names = {address: name for name, address in sorted(self.addresses.items(), reverse=True)}

    def held(self, addresses: typing.Iterable[bytes | None]) -> list[bytes]:
        """Those of these packed addresses that a node of the mesh has."""
        return [raw for raw in addresses if raw and str(ipaddress.ip_address(raw)) in self.names]

    def named(self, addresses: typing.Iterable[bytes]) -> set[str]:
        """The nodes that have these packed addresses."""
        found = {str(ipaddress.ip_address(raw)) for raw in addresses}
        return {name for name, address in self.addresses.items() if address in found}


def members(registry: object) -> dict[str, str]:
    """The overlay addresses of the members by name. Raise ValueError for what is no registry; a record that is none is left out."""
    if not isinstance(registry, dict):
        raise ValueError("it is no dictionary of records")
    found = {}
    for name, record in registry.items():
        if not isinstance(record, dict) or record.get("state") != "member" or not LABEL.fullmatch(name):
            continue
        try:
            found[name] = str(ipaddress.IPv6Address(record.get("address")))
        except ValueError:
            continue
    if registry and not found and not any(isinstance(record, dict) and "state" in record for record in registry.values()):
        raise ValueError("it has no record of a node")
    return found
