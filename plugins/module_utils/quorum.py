# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who votes: the Consul servers of a mesh.

Pure: data in, data out; nothing of Ansible.
"""

from __future__ import annotations

# More voters make every write slower and the loss of the majority no less likely.
MOST_SERVERS = 5


def servers(mesh: list[str], listed: list[str], roles: dict[str, str]) -> list[str]:
    """Choose the Consul servers: those that are listed, else those that are servers already, else every node of a new mesh. Names, sorted.

    `roles` has the role (server or client) of the nodes for which the inventory tells one, as only that of a mesh that exists does. When
    none of them is a server, all servers are out of reach: making others to servers would start a second quorum.
    """
    if listed:
        return sorted(listed)
    if any(roles.values()):
        return sorted(name for name in mesh if roles.get(name) == "server")
    return sorted(mesh)


def problems(mesh: list[str], listed: list[str], roles: dict[str, str]) -> list[str]:
    """List what keeps a mesh with these nodes (names), listed servers (group consul_servers) and roles from having a quorum."""
    found = []
    strangers = sorted(set(listed) - set(mesh))
    if strangers:
        found.append(f"group consul_servers: {', '.join(strangers)} is not in the group mesh: add it there, or take it out here")
    chosen = servers(mesh, listed, roles)
    if len(chosen) > MOST_SERVERS:
        found.append(
            f"{len(chosen)} Consul servers are more than {MOST_SERVERS}: "
            f"name 3 or {MOST_SERVERS} hosts in the inventory group consul_servers, the others become clients"
        )
    return found
