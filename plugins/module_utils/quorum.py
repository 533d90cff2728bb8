# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who votes: the Consul servers of a mesh.

Pure: data in, data out; nothing of Ansible.
"""

from __future__ import annotations

# More voters make every write slower and the loss of the majority no less likely.
MOST_SERVERS = 5


def servers(mesh: list[str], listed: list[str]) -> list[str]:
    """Choose the Consul servers: those that are listed, or every node of a mesh of up to five. Names, sorted."""
    return sorted(listed) if listed else sorted(mesh)


def problems(mesh: list[str], listed: list[str]) -> list[str]:
    """List what keeps a mesh with these nodes (names) and listed servers (group consul_servers) from having a quorum."""
    found = []
    strangers = sorted(set(listed) - set(mesh))
    if strangers:
        found.append(f"group consul_servers: {', '.join(strangers)} is not in the group mesh: add it there, or take it out here")
    chosen = servers(mesh, listed)
    if len(chosen) > MOST_SERVERS:
        found.append(
            f"{len(chosen)} Consul servers are more than {MOST_SERVERS}: "
            f"name 3 or {MOST_SERVERS} hosts in the inventory group consul_servers, the others become clients"
        )
    return found
