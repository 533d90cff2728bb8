# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from ansible_collections.vdloo.mesh.plugins.module_utils import quorum


def test_every_node_of_a_small_mesh_votes():
    assert quorum.servers(["b", "a"], [], {}) == ["a", "b"]
    assert quorum.problems(["a", "b", "c", "d", "e"], [], {}) == []


def test_a_larger_mesh_has_to_name_its_servers():
    names = [f"n{i}" for i in range(6)]
    assert "consul_servers" in quorum.problems(names, [], {})[0]
    assert quorum.problems(names, names[:3], {}) == []
    assert quorum.servers(names, names[:3], {}) == names[:3]


def test_a_listed_server_must_be_a_node_of_the_mesh():
    assert "group consul_servers: x is not in the group mesh" in quorum.problems(["a"], ["x"], {})[0]


def test_a_mesh_that_exists_keeps_its_servers():
    roles = {"a": "server", "b": "client", "c": "", "d": "server"}
    assert quorum.servers(["d", "c", "b", "a"], [], roles) == ["a", "d"]
    assert quorum.servers(["a", "b"], ["b"], roles) == ["b"]


def test_while_no_server_can_be_reached_no_client_becomes_one():
    assert quorum.servers(["b", "c"], [], {"b": "client", "c": "client"}) == []


def test_a_large_mesh_that_exists_has_named_its_servers_already():
    names = [f"n{i}" for i in range(9)]
    roles = {name: "server" if name < "n3" else "client" for name in names}
    assert quorum.problems(names, [], roles) == []
