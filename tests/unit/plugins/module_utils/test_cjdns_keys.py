# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import re

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import keys
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

# Published in the documentation and the tests of cjdns.
PRIVATE_1 = "0b4eed1835d708a79914a8925e8d5fff706a5258dfb4826f56d4c29eaec7abc5"
PUBLIC_1 = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
PRIVATE_2 = "823e45d5ca85b6f89d2a7feb56d5214d0e2e3afd5456eb0af2c4ac10350ebc70"
PUBLIC_2 = "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"
PUBLIC_3 = "v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k"


@pytest.mark.parametrize(("private_key", "public_key"), [(PRIVATE_1, PUBLIC_1), (PRIVATE_2, PUBLIC_2)])
def test_a_private_key_gives_the_published_public_key(private_key, public_key):
    assert keys.public_from_private(private_key) == public_key
    assert keys.public_from_private(private_key.upper()) == public_key


@pytest.mark.parametrize(
    ("public_key", "address"),
    [
        (PUBLIC_1, "fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1"),
        (PUBLIC_2, "fcff:a215:1e7b:a4e9:c00d:813:93b3:7c87"),
        (PUBLIC_3, "fcf1:a7a8:8ec0:589b:c64c:cc95:1ced:3679"),
        (PUBLIC_3.upper().replace(".K", ".k"), "fcf1:a7a8:8ec0:589b:c64c:cc95:1ced:3679"),
    ],
)
def test_a_public_key_gives_the_published_address(public_key, address):
    assert keys.address_from_public(public_key) == address


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=25)
def test_the_ladder_agrees_with_an_independent_one(private):
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    assert keys.public_from_private(private.hex()) == keys.base32_encode(public) + ".k"


@given(st.binary(max_size=80))
def test_base32_gives_back_what_it_was_given(data):
    assert keys.base32_decode(keys.base32_encode(data)) == data


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_52_characters_of_the_alphabet(data):
    assert re.fullmatch(f"[{keys.BASE32}]{{52}}", keys.base32_encode(data))


@given(st.text(alphabet=keys.BASE32, min_size=52, max_size=52))
def test_a_text_is_the_only_one_for_its_bytes(text):
    try:
        data = keys.base32_decode(text)
    except keys.KeyFormatError:
        assert keys.BASE32.index(text[-1]) > 1
    else:
        assert keys.base32_encode(data) == text


@pytest.mark.parametrize(
    ("public_key", "reason"),
    [
        ("", "ends in .k"),
        (PUBLIC_1[:-2], "ends in .k"),
        (PUBLIC_1[:-1] + "K", "ends in .k"),
        (PUBLIC_1[1:], "52 characters before .k, not 51"),
        ("0" + PUBLIC_1, "52 characters before .k, not 53"),
        ("a" + PUBLIC_1[1:], "character 1 is not one of"),
        (PUBLIC_1[:51] + "z.k", "belong to no byte"),
        ("0" * 52 + ".k", "would not begin with fc"),
        (PUBLIC_1[0] + "1" + PUBLIC_1[2:], "would not begin with fc"),
    ],
)
def test_a_bad_public_key_is_refused_with_the_reason(public_key, reason):
    with pytest.raises(keys.KeyFormatError, match=reason):
        keys.validate_public_key(public_key)


@pytest.mark.parametrize("private_key", ["", PRIVATE_1[:-1], PRIVATE_1 + "0", "g" + PRIVATE_1[1:], " " + PRIVATE_1[1:]])
def test_a_bad_private_key_is_refused_without_being_shown(private_key):
    with pytest.raises(keys.KeyFormatError) as caught:
        keys.public_from_private(private_key)
    assert str(caught.value) == "a private key is 64 hex digits"


SECRET = "5" * 64


def test_a_link_has_the_same_password_each_time():
    # Frozen: another value would cut every link of a running mesh.
    assert keys.link_password(SECRET, PUBLIC_1) == keys.link_password(SECRET + "\n", PUBLIC_1.upper().replace(".K", ".k"))
    assert keys.link_password(SECRET, PUBLIC_1) == "r62c36to13p5ua5vc5a9xfiqge58rdi0"


def test_each_dialler_and_each_listener_has_its_own_password():
    passwords = {keys.link_password(secret, key) for secret in (SECRET, "6" * 64) for key in (PUBLIC_1, PUBLIC_2, PUBLIC_3)}
    assert len(passwords) == 6


@given(st.text(alphabet="0123456789abcdef", min_size=64, max_size=64))
def test_a_password_is_32_characters_that_cjdns_can_read(secret):
    assert re.fullmatch("[a-z0-9]{32}", keys.link_password(secret, PUBLIC_1))


def test_no_password_comes_from_a_short_secret_or_a_bad_key():
    with pytest.raises(keys.KeyFormatError, match="at least 32"):
        keys.link_password("short", PUBLIC_1)
    with pytest.raises(keys.KeyFormatError, match="ends in .k"):
        keys.link_password(SECRET, "web")
