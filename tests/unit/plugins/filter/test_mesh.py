# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.filter import mesh
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import keys

ROOT = Path(__file__).resolve().parents[4]
KEYS = {"a": "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k", "b": "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"}
HOSTVARS = {"a": {"ansible_host": "192.0.2.1", "mesh_endpoints": ["192.0.2.1:4321"]}, "b": {"ansible_host": "192.0.2.2"}}
OVERLAYS = {name: {"public_key": key, "address": keys.address_from_public(key)} for name, key in KEYS.items()}


def registry(known=(), names=("a", "b"), hostvars=None, overlays=None):
    return mesh.registry(list(known), list(names), hostvars or HOSTVARS, overlays or OVERLAYS, ["a"])


def test_the_example_inventory_is_sound():
    hosts = yaml.safe_load((ROOT / "inventory" / "hosts.example.yml").read_text())["mesh"]["hosts"]
    assert mesh.inventory_problems(list(hosts), hosts, []) == []


def test_the_registry_of_an_unchanged_mesh_does_not_change():
    first = registry()
    assert registry([first, first]) == first
    assert {name: record["version"] for name, record in first.items()} == {"a": 1, "b": 1}
    assert [name for name, record in first.items() if record["server_eligible"]] == ["a"]


def test_a_node_that_this_run_does_not_reach_stays_in_the_registry():
    first = registry()
    assert registry([first], names=["b"], overlays={"b": OVERLAYS["b"]}) == first


def test_a_damaged_record_in_the_registry_of_one_node_is_left_out():
    first = registry()
    damaged = {"a": {"name": "a"}, "{{ b }}": first["b"], "b": {**first["b"], "version": 99, "address": "fc00::1"}}
    assert registry([damaged, first]) == first


def test_how_to_log_in_is_what_the_node_told_or_what_was_known():
    told = {"arch": "aarch64", "ssh_user": "admin", "ssh_port": 22, "ssh_host_key": "ssh-ed25519 " + "A" * 68}
    forwarded = {**HOSTVARS, "a": {**HOSTVARS["a"], "ansible_port": 2222, "node_access": told}}
    first = registry(hostvars=forwarded)
    assert (first["a"]["arch"], first["a"]["ssh"]) == ("aarch64", {"user": "admin", "port": 22, "host_key": told["ssh_host_key"]})
    assert first["b"]["ssh"] == {"user": "root", "port": 22, "host_key": ""}
    local = {**HOSTVARS, "a": {**forwarded["a"], "node_access": {**told, "ssh_user": "", "ssh_port": 0}}}
    assert registry([first], hostvars=local) == first


def test_a_new_endpoint_is_told_by_a_new_version():
    moved = {**HOSTVARS, "a": {**HOSTVARS["a"], "mesh_endpoints": ["192.0.2.9:4321"]}}
    changed = registry([registry()], hostvars=moved)
    assert changed["a"]["version"] == 2
    assert changed["a"]["endpoints"] == [{"address": "192.0.2.9:4321", "zone": "public"}]
    assert changed["b"]["version"] == 1


def test_two_nodes_with_one_key_are_refused():
    with pytest.raises(AnsibleFilterError, match="nodes a and b have the same key"):
        registry(overlays={**OVERLAYS, "b": {**OVERLAYS["a"]}})


def test_dialler_and_listener_get_the_same_password():
    passwords = {"a": {KEYS["b"]: "secret-of-a-and-b"}}
    dials = mesh.peers(registry(), "b", passwords)["dials"]
    assert dials == [
        {"name": "a", "address": "192.0.2.1:4321", "public_key": KEYS["a"], "login": "b", "password": "secret-of-a-and-b"},
    ]
    listener = mesh.peers(registry(), "a", passwords)
    assert listener == {"dials": [], "accepts": [{"user": "b", "password": "secret-of-a-and-b"}], "diallers": [KEYS["b"]]}


def test_a_listener_that_this_run_does_not_reach_is_dialled_with_the_password_known_before():
    assert "password" not in mesh.peers(registry(), "b", {})["dials"][0]


def test_the_role_that_the_inventory_tells_decides_who_is_a_server():
    live = {"a": {"mesh_role": "client"}, "b": {"mesh_role": "server"}}
    assert mesh.servers(["a", "b"], [], live) == ["b"]
    assert mesh.servers(["a"], [], live) == []
    assert mesh.servers(["a", "b"], [], HOSTVARS) == ["a", "b"]
