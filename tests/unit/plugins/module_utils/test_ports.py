# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import ports
from ansible_collections.vdloo.mesh.plugins.module_utils.ports import Holder, Listener

# As a little-endian kernel writes them: a listener, an established connection, a wildcard of IPv6, UDP sockets with and without a peer.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2134 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 51234 1 0000000000000000 100 0 0 10 0
   1: 0100007F:2134 0100007F:B61A 01 00000000:00000000 00:00000000 00000000   999        0 51240 1 0000000000000000 20 4 30 10 -1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000C0FD000007000000000011000000:206C 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1
"""
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  101: 00000000:206D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 888 2 0000000000000000 0
  102: 0100007F:206D 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 889 2 0000000000000000 0
"""
KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the samples come from a little-endian kernel")


@little_endian
def test_only_what_listens_is_read():
    assert ports.parse_listeners(TCP, "tcp") == [Listener("tcp", "127.0.0.1", 8500, "51234", 999)]
    assert ports.parse_listeners(UDP, "udp") == [Listener("udp", "0.0.0.0", 8301, "888", 0)]


@little_endian
def test_addresses_of_ipv6_are_decoded():
    assert [listener.address for listener in ports.parse_listeners(TCP6, "tcp")] == ["fdc0:0:7::11"]


@little_endian
def test_a_kernel_without_ipv6_has_half_of_the_tables(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TCP)
    (tmp_path / "net" / "udp").write_text(UDP)
    assert [listener.inode for listener in ports.listeners(proc=str(tmp_path))] == ["51234", "888"]
    assert [listener.inode for listener in ports.listeners(["tcp"], str(tmp_path))] == ["51234"]


@pytest.mark.parametrize(
    ("family", "address", "kind"), [(socket.AF_INET, "127.0.0.1", socket.SOCK_STREAM), (socket.AF_INET6, "::1", socket.SOCK_DGRAM)]
)
def test_a_real_socket_is_found_with_its_process(family, address, kind):
    with socket.socket(family, kind) as own:
        own.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            own.listen()
        port = own.getsockname()[1]
        found = [listener for listener in ports.listeners() if ports.clashes(listener, address, port)]
        assert [(listener.address, listener.uid) for listener in found] == [(address, os.getuid())]
        name = Path("/proc/self/comm").read_text().strip()
        holders = ports.holders({found[0].inode})
        assert [(holder.pid, holder.name, holder.inodes) for holder in holders] == [(os.getpid(), name, {found[0].inode})]


def test_all_processes_that_share_a_socket_hold_it():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        inode = str(os.fstat(own.fileno()).st_ino)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[own.fileno()]) as child:
            assert [holder.pid for holder in ports.holders([inode])] == sorted([os.getpid(), child.pid])
            child.communicate(b"\n")


def test_without_a_socket_nobody_is_looked_at(tmp_path):
    assert ports.holders(set(), str(tmp_path / "none")) == []


def process(proc, pid, name, *inodes, cgroup=None):
    folder = proc / str(pid) / "fd"
    folder.mkdir(parents=True)
    for number, inode in enumerate(inodes):
        (folder / str(number)).symlink_to(f"socket:[{inode}]")
    (folder / "9").symlink_to("/dev/null")
    if name:
        (proc / str(pid) / "comm").write_text(name + "\n")
    if cgroup:
        (proc / str(pid) / "cgroup").write_text(cgroup)


def test_a_holder_is_named_with_its_service(tmp_path):
    (tmp_path / "self").mkdir()
    process(tmp_path, 30, "named", "1", "2", cgroup="0::/system.slice/named.service\n")
    process(tmp_path, 4, "worker", "2", cgroup="1:name=systemd:/system.slice/web.service/sub\n0::/\n")
    process(tmp_path, 5, "shell", "3", cgroup="0::/user.slice/user-0.slice/session-1.scope\n")
    process(tmp_path, 6, "other", "7")
    assert ports.holders({"1", "2", "3"}, str(tmp_path)) == [
        Holder(4, "worker", "web.service", frozenset({"2"})),
        Holder(5, "shell", "", frozenset({"3"})),
        Holder(30, "named", "named.service", frozenset({"1", "2"})),
    ]


def test_a_process_that_ends_meanwhile_is_left_out_and_one_without_control_group_is_not(tmp_path):
    process(tmp_path, 4, "", "1", cgroup="0::/\n")
    process(tmp_path, 5, "named", "1")
    (tmp_path / "6").mkdir()
    assert ports.holders({"1"}, str(tmp_path)) == [Holder(5, "named", "", frozenset({"1"}))]


@pytest.mark.parametrize(
    ("theirs", "ours", "clash"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::", "fc00::1", True),
        ("0.0.0.0", "::", True),
        ("0.0.0.0", "fc00::1", False),
        ("192.0.2.1", "127.0.0.1", False),
        ("fc00::2", "fc00::1", False),
        ("192.0.2.1", "0.0.0.0", True),
    ],
)
def test_a_socket_is_in_the_way_at_the_same_address_or_as_a_wildcard(theirs, ours, clash):
    assert ports.clashes(Listener("tcp", theirs, 8500, "1", 0), ours, 8500) is clash


def test_a_socket_on_another_port_is_in_nobodys_way():
    assert not ports.clashes(Listener("tcp", "0.0.0.0", 8501, "1", 0), "127.0.0.1", 8500)


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_is_free_where_nobody_has_it(kind):
    with socket.socket(socket.AF_INET, kind) as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            own.listen(1)
        assert not ports.is_free("127.0.0.1", port)
        assert ports.is_free("127.0.0.2", port)


def test_a_wildcard_holds_every_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("0.0.0.0", 0))
        assert not ports.is_free("127.0.0.1", own.getsockname()[1])


def test_an_address_that_the_host_has_not_got_is_free():
    assert ports.is_free("192.0.2.1", 53)
