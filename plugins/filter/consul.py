# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role consul computes of its variables. All functions are pure: data in, data out."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import addresses


def peers(listed: list[str], own: str, port: int = 8301) -> list[str]:
    """List the agents to join, each once and with its port, without the node's own address."""
    try:
        return addresses.other_peers(listed, own, port)
    except (TypeError, ValueError) as error:
        raise AnsibleFilterError(f"{error}: the nodes to join and the node's own address are literal addresses") from error


class FilterModule:
    """The filters of the consul role."""

    def filters(self):
        return {"consul_peers": peers}
