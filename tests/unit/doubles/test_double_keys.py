# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keys, addresses and labels of the cjdroute double against published values."""

from __future__ import annotations

import ipaddress
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

VECTORS = [
    (
        "0b4eed1835d708a79914a8925e8d5fff706a5258dfb4826f56d4c29eaec7abc5",
        "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k",
        "fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1",
    ),
    (
        "823e45d5ca85b6f89d2a7feb56d5214d0e2e3afd5456eb0af2c4ac10350ebc70",
        "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k",
        "fcff:a215:1e7b:a4e9:c00d:0813:93b3:7c87",
    ),
    (None, "v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k", "fcf1:a7a8:8ec0:589b:c64c:cc95:1ced:3679"),
]


@pytest.mark.parametrize("private, public, address", VECTORS)
def test_published_keys_and_addresses(double, private, public, address):
    if private:
        assert double.key_text(double.public_of(bytes.fromhex(private))) == public
    assert double.ip_text(double.address_of(double.parse_key(public))) == address


def test_the_key_exchange_of_rfc_7748(double):
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645f7da0c3e5e1f9f06d0a2b5c5e6e8a92a")
    assert double.x25519(
        bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
        bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"),
    ).hex() == ("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    bob = os.urandom(32)
    assert double.x25519(alice, double.public_of(bob)) == double.x25519(bob, double.public_of(alice))


def test_the_quick_way_to_a_public_key_agrees_with_the_ladder(double):
    for private in [os.urandom(32) for number in range(5)]:
        point = double.multiply_base(double.clamp(private))
        assert point[0].to_bytes(32, "little") == double.public_of(private)
        assert (point[1] ** 2 - point[0] ** 3 - 486662 * point[0] ** 2 - point[0]) % double.P25519 == 0


def test_generated_keys_have_addresses_of_the_mesh(double):
    keys = {double.generate_key() for attempt in range(5)}
    assert len(keys) == 5
    for private in keys:
        public = double.public_of(private)
        assert ipaddress.ip_address(double.ip_text(double.address_of(public))) in ipaddress.ip_network("fc00::/8")
        assert double.parse_key(double.key_text(public)) == public
        assert double.key_text(public).endswith("0.k")


@given(st.binary(min_size=32, max_size=32))
def test_base32_goes_both_ways(double, data):
    text = double.b32encode(data)
    assert len(text) == 52
    assert double.b32decode(text) == double.b32decode(text.upper()) == data


@pytest.mark.parametrize(
    "text, error",
    [
        ("short.k", "key must be 52 characters long"),
        ("v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0xx", "key must end in .k"),
        ("a0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k", "failed to base-32 decode key"),
        ("00zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k", "not a valid cjdns public key"),
    ],
)
def test_malformed_keys_are_refused_in_the_words_of_cjdns(double, text, error):
    with pytest.raises(ValueError, match=error):
        double.parse_key(text)


@given(st.lists(st.integers(1, 255), max_size=6))
def test_labels_lead_along_the_path_they_were_made_of(double, slots):
    label, found = double.label_of(slots), []
    assert double.parse_label(double.label_text(label)) == label
    while label != 1:
        slot, label = double.label_next(label)
        found.append(slot)
    assert found == slots


def test_labels_of_direct_peers_look_like_those_of_cjdns(double):
    assert [double.label_text(double.label_of([slot])) for slot in (1, 2, 7)] == [
        "0000.0000.0000.0013",
        "0000.0000.0000.0015",
        "0000.0000.0000.001f",
    ]
    assert double.label_text(double.label_of([])) == "0000.0000.0000.0001"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("192.0.2.1:4321", ("192.0.2.1", 4321)),
        ("[fc00:0::1]:80", ("fc00::1", 80, 0, 0)),
        ("example.org:4321", None),
        ("192.0.2.1", None),
        ("192.0.2.1:70000", None),
        ("192.0.2.300:1", None),
        ("fc00::1:80", None),
        ("[::1", None),
        ("", None),
        ("[fe80::1%eth0]:80", None),
    ],
)
def test_endpoints_are_literal_addresses_with_a_port(double, text, expected):
    if expected is None:
        with pytest.raises(ValueError):
            double.parse_endpoint(text)
    else:
        assert double.parse_endpoint(text)[1] == expected
