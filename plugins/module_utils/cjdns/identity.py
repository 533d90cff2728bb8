# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The identity of a node: one key pair for life, kept in one file, never overwritten."""

from __future__ import annotations

import ipaddress
import json
from typing import NamedTuple

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, keys


class IdentityError(Exception):
    """The identity on the node cannot be used; the message says why and what to do. It never holds a key."""


class Identity(NamedTuple):
    """A node's key pair and the address that follows from it."""

    private_key: str
    public_key: str
    address: str

    def to_json(self) -> str:
        """The text of the identity file, with the names that cjdroute.conf uses."""
        return (
            json.dumps({"ipv6": self.address, "privateKey": self.private_key, "publicKey": self.public_key}, indent=2, sort_keys=True)
            + "\n"
        )


def from_private(private_key: str) -> Identity:
    """Compute the whole identity from its private key."""
    public_key = keys.public_from_private(private_key)
    return Identity(private_key, public_key, keys.address_from_public(public_key))


def from_generated(generated: dict, source: str) -> Identity:
    """Take the identity out of what the daemon's generator wrote, after computing the public half again."""
    try:
        identity = from_private(str(generated.get("privateKey", "")))
    except keys.KeyFormatError as error:
        raise IdentityError(f"{source} has a private key that cannot be used: {error}") from None
    if generated.get("publicKey") != identity.public_key:
        raise IdentityError(f"{source} has a public key that does not belong to its private key")
    try:
        same = ipaddress.ip_address(str(generated.get("ipv6"))) == ipaddress.ip_address(identity.address)
    except ValueError:
        same = False
    if not same:
        raise IdentityError(f"{source} has an address that does not belong to its key ({identity.address} does)")
    return identity


def read_text(path: str) -> str | None:
    """Read a file; None when there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise IdentityError(f"{path} is not a text file: repair it from a backup, or move it away") from None


def read_file(path: str) -> Identity | None:
    """Read and verify the identity file; None when there is none."""
    text = read_text(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    advice = "repair it from a backup, or move it away to give the node a new key and address"
    if not isinstance(content, dict):
        raise IdentityError(f"{path} is not a JSON object: {advice}")
    try:
        return from_generated(content, path)
    except IdentityError as error:
        raise IdentityError(f"{error}: {advice}") from None


def read_config(path: str) -> Identity | None:
    """Read the identity that a cjdroute.conf holds; None when there is no file, or no key in it."""
    text = read_text(path)
    try:
        private_key = conf.private_key_of(text) if text is not None else None
        return from_private(private_key) if private_key is not None else None
    except (conf.ConfError, keys.KeyFormatError) as error:
        raise IdentityError(f"{path} has a privateKey that cannot be used: {error}. Repair the file, or move it away") from None


def present(identity_path: str, config_path: str) -> tuple[Identity | None, bool]:
    """Find the node's identity: from its own file or, where that is missing, from an earlier cjdroute.conf.

    The second value tells whether the identity file is there. Two different keys are an error, as one of them would be lost.
    """
    own = read_file(identity_path)
    configured = read_config(config_path)
    if own is not None and configured is not None and own.public_key != configured.public_key:
        raise IdentityError(
            f"{identity_path} holds the key of {own.address}, but {config_path} that of {configured.address}: "
            "move away the one that this node is not to have"
        )
    return (own or configured), own is not None
