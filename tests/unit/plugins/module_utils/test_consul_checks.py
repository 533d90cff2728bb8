# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import base64

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import checks

KEY = base64.b64encode(bytes(32)).decode()
SHA256 = "a" * 64


def options(**changes):
    good = {
        "method": "release",
        "version": "1.21.5",
        "release_checksums": {"amd64": SHA256},
        "binary_src": "",
        "binary_checksum": "",
        "server": True,
        "bootstrap_expect": 0,
        "bind_address": "fc00::1",
        "retry_join": ["fc00::2"],
        "gossip_key": KEY,
        "datacenter": "mesh",
        "node_name": "web-1",
        "data_dir": "/var/lib/consul",
        "config_dir": "/etc/consul.d",
        "config": {},
        "ports": {"http": 8500, "dns": 8600, "server": 8300, "serf_lan": 8301},
        "marker": "",
    }
    return {**good, **changes}


def node(**changes):
    good = {
        "systemd": True,
        "init": "systemd",
        "has_ip": True,
        "os": "Debian GNU/Linux 12",
        "architecture": "x86_64",
        "release_architecture": "amd64",
        "binary": {"path": "/usr/local/bin/consul", "version": ""},
        "package_candidate": "",
        "taken": [],
        "address_missing": False,
        "keyring": "none",
        "agent": {},
        "marker_path": "/var/lib/vdloo-mesh/consul-bootstrapped",
    }
    return {**good, **changes}


def agent(**changes):
    return {"node": "web-1", "address": "fc00::1", "server": True, "leader": "", **changes}


def test_good_input_on_a_good_node_is_taken():
    assert checks.of_input(options()) == []
    assert checks.of_node(options(), node()) == []


def test_a_node_that_runs_as_asked_is_taken():
    asked = options(marker="mesh", bind_address="FC00:0::1")
    assert checks.of_input(asked) + checks.of_node(asked, node(agent=agent(), keyring="same")) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": "1.2.x"}, "consul_version 1.2.x is below 1.8: set consul_version or consul_install_method"),
        ({"version": "1.7.14"}, "consul_version 1.7.14 is below 1.8"),
        ({"version": "latest"}, "consul_version latest is not a version"),
        ({"version": "1.21"}, "consul_version 1.21 is not a whole version"),
        ({"method": "binary", "binary_checksum": SHA256}, "consul_binary_src is empty"),
        ({"method": "binary", "binary_src": "/c"}, "consul_binary_checksum is empty"),
        ({"method": "binary", "binary_src": "/c", "binary_checksum": "sha256:abc"}, "consul_binary_checksum 'sha256:abc' is no SHA-256"),
        ({"node_name": "web.example"}, "consul_node_name 'web.example' is not a DNS label"),
        ({"node_name": "-web"}, "is not a DNS label"),
        ({"node_name": "a" * 64}, "is not a DNS label"),
        ({"datacenter": "My Mesh"}, "consul_datacenter 'My Mesh'"),
        ({"data_dir": "consul"}, "consul_data_dir 'consul' must be the absolute path"),
        ({"data_dir": "/var/lib/"}, "of a directory of its own"),
        ({"data_dir": "/home/consul/data"}, "consul_data_dir '/home/consul/data' is out of reach"),
        ({"bind_address": "[fc00::1]"}, "consul_bind_address '[fc00::1]' is not a literal address"),
        ({"bind_address": "web"}, "consul_bind_address 'web' is not a literal address"),
        ({"bind_address": "::"}, "consul_bind_address :: is an address that other nodes cannot dial"),
        ({"bind_address": "fe80::1"}, "cannot dial"),
        ({"retry_join": ["fc00::2", "phone"]}, "consul_retry_join: 'phone' is not a literal address"),
        ({"retry_join": ["[fc00::1]:8301"]}, "consul_retry_join names only this node itself"),
        ({"retry_join": []}, "consul_retry_join is empty"),
        ({"gossip_key": "hello"}, "consul_gossip_key is not base64"),
        ({"gossip_key": base64.b64encode(bytes(5)).decode()}, "consul_gossip_key has 5 bytes and not 16, 24 or 32"),
        ({"bootstrap_expect": 3, "server": False}, "consul_bootstrap_expect is 3 but consul_server is false"),
        ({"bootstrap_expect": -1}, "consul_bootstrap_expect -1 is below 0"),
        ({"config": {"encrypt": KEY}}, "consul_config.encrypt: set consul_gossip_key"),
        ({"config": {"node_id": "x"}}, "consul_config.node_id: leave the node id to Consul"),
        ({"config": {"bootstrap": True}}, "consul_config.bootstrap: set consul_bootstrap_expect"),
        ({"ports": {"http": -1}}, "consul_config.ports.http is -1"),
    ],
)
def test_bad_input_is_named(changes, says):
    problems = checks.of_input(options(**changes))
    assert len(problems) == 1
    assert says in problems[0]


def test_all_problems_are_told_at_once():
    assert len(checks.of_input(options(version="1.2.3", node_name="a b", bind_address="x", gossip_key="y"))) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"retry_join": [], "bootstrap_expect": 1},
        {"retry_join": ["fc00::1"], "bootstrap_expect": 1},
        {"retry_join": [], "marker": "mesh"},
    ],
)
def test_the_first_node_and_one_that_knows_its_mesh_need_nobody_to_join(changes):
    assert checks.of_input(options(**changes)) == []


def test_the_secret_is_in_no_message():
    key = base64.b64encode(b"not a good size").decode()
    assert key not in " ".join(checks.of_input(options(gossip_key=key)))


@pytest.mark.parametrize(
    ("asked", "found", "says"),
    [
        ({}, {"systemd": False, "init": "init"}, "runs no systemd (its first process is init)"),
        ({}, {"has_ip": False}, "install iproute2"),
        ({}, {"architecture": "riscv64", "release_architecture": ""}, "the vendor builds no Consul for riscv64"),
        (
            {},
            {"release_architecture": "386"},
            "no checksum is known for Consul 1.21.5 on 386: give the vendor's SHA-256 in consul_release_checksums.386",
        ),
        ({"release_checksums": {"amd64": "abc"}}, {}, "consul_release_checksums.amd64 'abc' is no SHA-256"),
        ({"method": "package"}, {}, "Debian GNU/Linux 12 has no consul package in its package lists: set consul_install_method to release"),
        ({"method": "package"}, {"package_candidate": "1.5.2"}, "is 1.5.2, below 1.8"),
        (
            {"method": "package"},
            {"binary": {"path": "/usr/bin/consul", "version": "1.5.2"}},
            "the installed consul package is 1.5.2, below 1.8",
        ),
        ({}, {"address_missing": True}, "consul_bind_address fc00::1 is on no interface of this node"),
        (
            {},
            {"taken": [{"protocol": "tcp", "port": 8500, "address": "0.0.0.0", "process": "nginx (pid 7)"}]},
            "port 8500/tcp on 0.0.0.0 is held by nginx (pid 7): stop it, or choose another port",
        ),
        ({"marker": "old"}, {}, "this node belongs to the datacenter old"),
        ({}, {"agent": agent(node="web-0")}, "consul_node_name is web-1 but the node is a member as web-0: run `consul leave`"),
        ({}, {"agent": agent(address="fc00::9")}, "consul_bind_address is fc00::1 but the node is a member as fc00::9"),
        ({}, {"keyring": "other"}, "consul_gossip_key is not the key that this node uses"),
    ],
)
def test_a_node_that_does_not_fit_is_named(asked, found, says):
    problems = checks.of_node(options(**asked), node(**found))
    assert len(problems) == 1
    assert says in problems[0]


def test_a_package_that_is_new_enough_is_taken():
    assert checks.of_node(options(method="package"), node(package_candidate="1.8.7")) == []
