# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import socket
import sys

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import sockets
from ansible_collections.vdloo.mesh.plugins.module_utils.consul.sockets import Listener

# As a little-endian kernel writes them: a listener, an established connection, a wildcard of IPv6, a bound UDP socket.
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
"""

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the samples come from a little-endian kernel")


@little_endian
def test_only_what_listens_is_read():
    assert sockets.parse_listeners(TCP, "tcp") == [Listener("tcp", "127.0.0.1", 8500, "51234", 999)]


@little_endian
def test_addresses_of_both_families_are_decoded():
    assert [listener.address for listener in sockets.parse_listeners(TCP6, "tcp")] == ["fdc0:0:7::11"]
    assert sockets.parse_listeners(UDP, "udp") == [Listener("udp", "0.0.0.0", 8301, "888", 0)]


@pytest.mark.parametrize(
    ("family", "address", "kind"), [(socket.AF_INET, "127.0.0.1", socket.SOCK_STREAM), (socket.AF_INET6, "::1", socket.SOCK_DGRAM)]
)
def test_a_real_socket_is_found_with_its_process(family, address, kind):
    with socket.socket(family, kind) as own:
        own.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            own.listen()
        port = own.getsockname()[1]
        found = [listener for listener in sockets.listeners() if sockets.clashes(listener, address, port)]
        assert [(listener.address, listener.uid) for listener in found] == [(address, os.getuid())]
        assert sockets.owners({found[0].inode})[found[0].inode][0] == os.getpid()


@pytest.mark.parametrize(
    ("theirs", "ours", "clash"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::", "fc00::1", True),
        ("0.0.0.0", "fc00::1", False),
        ("192.0.2.1", "127.0.0.1", False),
        ("fc00::2", "fc00::1", False),
        ("192.0.2.1", "0.0.0.0", True),
    ],
)
def test_a_socket_is_in_the_way_at_the_same_address_or_as_a_wildcard(theirs, ours, clash):
    assert sockets.clashes(Listener("tcp", theirs, 8500, "1", 0), ours, 8500) is clash


def test_a_socket_on_another_port_is_in_nobodys_way():
    assert not sockets.clashes(Listener("tcp", "0.0.0.0", 8501, "1", 0), "127.0.0.1", 8500)
