# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import ipaddress

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import addresses
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("fc00::1", "fc00::1", None),
        ("FC00:0:0::1", "fc00::1", None),
        ("[fc00::1]", "fc00::1", None),
        ("[fc00::1]:8302", "fc00::1", 8302),
        ("10.0.0.1", "10.0.0.1", None),
        ("10.0.0.1:1", "10.0.0.1", 1),
    ],
)
def test_a_peer_is_an_address_with_or_without_a_port(text, address, port):
    assert addresses.parse_peer(text) == (address, port)


@pytest.mark.parametrize(
    "text", ["", "phone", "phone.example:8301", "[fc00::1", "fc00::1]:8301", "10.0.0.1:0", "10.0.0.1:65536", "[10.0.0]:1", "10.0.0.1:"]
)
def test_anything_else_is_no_peer(text):
    with pytest.raises(ValueError):
        addresses.parse_peer(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_what_is_written_is_read_back(address, port):
    assert addresses.parse_peer(addresses.format_peer(str(address), port)) == (str(address), port)


def test_a_node_never_joins_itself_however_its_address_is_written():
    peers = ["fc00::1", "[FC00:0::1]:8301", "fc00::1".upper()]
    assert addresses.other_peers(peers, "fc00::1", 8301) == []


@given(st.lists(st.ip_addresses(v=6), max_size=6), st.randoms())
def test_the_order_and_repetition_of_peers_do_not_matter(peers, random):
    texts = [str(peer) for peer in peers]
    shuffled = texts + texts
    random.shuffle(shuffled)
    expected = addresses.other_peers(texts, "fc00::1", 8301)
    assert addresses.other_peers(shuffled, "fc00::1", 8301) == expected
    assert len(expected) == len({p for p in peers if p != ipaddress.ip_address("fc00::1")})
