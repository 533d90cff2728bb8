# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import socket

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import ports
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import identity
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_preflight

PRIVATE = "0b4eed1835d708a79914a8925e8d5fff706a5258dfb4826f56d4c29eaec7abc5"
KEY = "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"
PARAMS = {
    "install_method": "binary",
    "package_families": ["Archlinux", "Alpine"],
    "source_families": ["Debian", "RedHat", "Archlinux", "Alpine"],
    "binary_src": "/srv/cjdroute",
    "binary_checksum": "sha256:" + "a" * 64,
    "source_checksum": "sha256:" + "b" * 64,
    "port": 4321,
    "admin_port": 11234,
    "peers": [],
    "config": '{"admin": {"bind": "127.0.0.1:11234"}, "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:4321"}]}}',
}


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ('ID=debian\nVERSION_ID="12"\n', "Debian"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "Debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "RedHat"),
        ("ID=archarm\nID_LIKE=arch\n", "Archlinux"),
        ('ID="postmarketos"\nID_LIKE="alpine"\n', "Alpine"),
        ("# ID=debian\nID=slackware\n", ""),
        ("", ""),
    ],
)
def test_a_distribution_belongs_to_the_family_that_it_is_like(text, family):
    assert cjdns_preflight.family_of(cjdns_preflight.parse_os_release(text)) == family


@pytest.mark.parametrize(
    ("changes", "family", "reason"),
    [
        ({"install_method": "package"}, "Debian", "Tux 1 has no package of cjdns: set cjdns_install_method to source or binary"),
        ({"install_method": "source"}, "", "Tux 1 is not one that the role can build cjdns on: set cjdns_install_method to binary"),
        ({"binary_src": ""}, "Debian", "cjdns_binary_src is not set: cjdns_install_method binary needs it"),
        ({"binary_src": "cjdroute"}, "Debian", "cjdns_binary_src is 'cjdroute': write the whole path"),
        ({"binary_checksum": ""}, "Debian", "cjdns_binary_checksum is not set"),
        ({"binary_checksum": "a" * 64}, "Debian", "write it as sha256: and 64 hex digits"),
        ({"install_method": "source", "source_checksum": ""}, "Debian", "cjdns_source_checksum is not set"),
        ({"install_method": "source", "source_checksum": "md5:1"}, "Debian", "cjdns_source_checksum is 'md5:1'"),
    ],
)
def test_a_method_that_cannot_work_here_is_refused_with_one_that_can(changes, family, reason):
    problems = cjdns_preflight.method_problems({**PARAMS, **changes}, family, "Tux 1")
    assert len(problems) == 1
    assert reason in problems[0]


@pytest.mark.parametrize(("method", "family"), [("binary", ""), ("source", "Debian"), ("package", "Archlinux")])
def test_a_method_that_works_is_accepted(method, family):
    assert cjdns_preflight.method_problems({**PARAMS, "install_method": method}, family, "Tux 1") == []


@pytest.mark.parametrize("source", ["/srv/cjdroute", "~/cjdroute", "https://example.org/cjdroute"])
def test_a_binary_is_a_whole_path_or_a_url(source):
    assert cjdns_preflight.method_problems({**PARAMS, "binary_src": source}, "Debian", "Tux 1") == []


def test_all_that_is_wrong_with_the_wishes_is_told_at_once():
    peers = [
        {"name": "vps1", "address": "vps.example.org:4321", "public_key": KEY, "password": "x", "login": None},
        {"name": "vps2", "address": "192.0.2.1:4321", "public_key": "abc.k", "password": "y", "login": None},
    ]
    problems = cjdns_preflight.config_problems({**PARAMS, "port": 0, "admin_port": 70000, "peers": peers}, None)
    assert [problem.split(":")[0] for problem in problems] == [
        "cjdns_port is 0",
        "cjdns_admin_port is 70000",
        "cjdns_peers, vps1",
        "cjdns_peers, vps2",
    ]


def test_the_two_ports_must_differ():
    problems = cjdns_preflight.config_problems({**PARAMS, "admin_port": 4321}, None)
    assert problems == ["cjdns_port and cjdns_admin_port are both 4321: give each its own port"]


def test_the_node_is_not_its_own_peer():
    own = identity.from_private(PRIVATE)
    peers = [{"name": "me", "address": "192.0.2.1:4321", "public_key": own.public_key, "password": "x", "login": None}]
    assert cjdns_preflight.config_problems({**PARAMS, "peers": peers}, None) == []
    assert "cannot be its own peer" in cjdns_preflight.config_problems({**PARAMS, "peers": peers}, own)[0]


@pytest.fixture
def taken():
    """A UDP port that this process holds on every address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def taken_loopback():
    """A UDP port that this process holds on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_port_of_another_process_is_told_with_its_holder(taken, taken_loopback):
    problems = cjdns_preflight.port_problems(taken, taken_loopback, "cjdns.service")
    assert len(problems) == 2
    assert problems[0].startswith(f"UDP port {taken} is taken by ")
    assert f"(pid {os.getpid()}): stop it, or set cjdns_port to another port" in problems[0]
    assert "set cjdns_admin_port to another port" in problems[1]


def test_a_port_of_our_own_service_counts_as_free(taken, monkeypatch):
    monkeypatch.setattr(ports, "holders", lambda inodes: [ports.Holder(7, "cjdroute", "cjdns.service", frozenset(inodes))])
    assert cjdns_preflight.port_problems(taken, 1, "cjdns.service") == []


def test_the_admin_port_at_another_address_is_no_conflict(monkeypatch):
    monkeypatch.setattr(ports, "listeners", lambda _protocols: [ports.Listener("udp", "10.2.0.10", 11234, "4242", 0)])
    assert cjdns_preflight.port_problems(1, 11234, "cjdns.service") == []
    assert len(cjdns_preflight.port_problems(11234, 1, "cjdns.service")) == 1


def test_a_free_port_is_free(taken):
    assert cjdns_preflight.port_problems(1, 2, "cjdns.service") == []


def test_a_missing_or_wrong_tun_device_is_told_with_what_to_do(tmp_path):
    assert "modprobe tun" in cjdns_preflight.tun_problems(str(tmp_path / "tun"))[0]
    (tmp_path / "tun").write_text("")
    assert "is not a character device" in cjdns_preflight.tun_problems(str(tmp_path / "tun"))[0]
    assert "is not the TUN device" in cjdns_preflight.tun_problems("/dev/null")[0]


@pytest.mark.parametrize(("number", "reason"), [(1, "no permission"), (13, "no permission"), (19, "modprobe tun")])
def test_a_tun_device_that_cannot_be_opened_is_told_with_what_to_do(monkeypatch, number, reason):
    def refuse(path, flags):
        raise OSError(number, "")

    monkeypatch.setattr(os, "open", refuse)
    assert reason in cjdns_preflight.tun_problems("/dev/null")[0]


@pytest.mark.parametrize(("value", "problems"), [("0\n", 0), ("1\n", 1), (None, 1)])
def test_a_kernel_without_ipv6_is_told(tmp_path, value, problems):
    switch = tmp_path / "disable_ipv6"
    if value is not None:
        switch.write_text(value)
    assert len(cjdns_preflight.ipv6_problems(str(switch))) == problems
