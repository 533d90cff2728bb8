# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file in which the inventory plugin hands the nodes' host keys to ssh, so that a node is known from the first connection on."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.vdloo.mesh.plugins.module_utils import files
from ansible_collections.vdloo.mesh.plugins.plugin_utils import view


def path_for(inventory: str, chosen: str = "") -> Path:
    """Where the keys of an inventory are kept: each has a file of its own, unless the user has chosen one."""
    if chosen:
        return Path(chosen)
    digest = hashlib.sha256(os.path.realpath(inventory).encode()).hexdigest()[:12]
    return Path.home() / ".ansible" / "vdloo-mesh" / f"known_hosts-{digest}"


def write(path: Path, nodes: Iterable[view.Node]) -> None:
    """Replace the file, whole, when it differs. Raises OSError; without the file ssh asks about unknown hosts as it always does."""
    text = "".join(
        f"{_name(node['address'], node['ssh']['port'])} {node['ssh']['host_key']}\n"
        for node in nodes
        if node["ssh"].get("host_key") and ipaddress.ip_address(node["address"]).version == 6
    )
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(str(path), text.encode(), 0o600)


def _name(address: str, port: int) -> str:
    return address if port == 22 else f"[{address}]:{port}"
