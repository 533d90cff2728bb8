# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import bencode
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.integers(-(2**63), 2**64)
VALUES = st.recursive(
    NUMBERS | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_what_was_encoded_is_decoded_the_same(value):
    assert bencode.decode(bencode.encode(value)) == value


@given(st.dictionaries(st.text("abcdefg", min_size=1), st.text() | st.integers(0, 2**63) | st.lists(st.text(), max_size=3), min_size=1))
def test_the_daemons_aligned_and_unsorted_replies_are_read(reply):
    def raw(value):
        return [item.encode() for item in value] if isinstance(value, list) else value.encode() if isinstance(value, str) else value

    decoded = bencode.decode(cjdroutes.double.bencode_reply(reply))
    assert decoded == {name.encode(): raw(value) for name, value in reply.items()}


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63), max_size=5))
def test_the_daemon_reads_what_is_written(request):
    def raw(value):
        return value.encode() if isinstance(value, str) else value

    assert cjdroutes.double.bdecode(bencode.encode(request)) == {name: raw(value) for name, value in request.items()}


@given(st.binary(max_size=60) | st.text("0123456789-:dlie", max_size=60).map(str.encode))
def test_bytes_of_any_kind_are_a_value_or_an_error(data):
    try:
        value = bencode.decode(data)
    except bencode.BencodeError:
        return
    assert bencode.decode(bencode.encode(value)) == value


@given(VALUES, st.integers(min_value=0))
def test_a_value_that_is_cut_short_is_an_error(value, place):
    data = bencode.encode(value)
    with pytest.raises(bencode.BencodeError):
        bencode.decode(data[: place % len(data)])


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"b": 1, "a": "x"}, b"d1:a1:x1:bi1ee"),
        ({"aa": True, b"a": False}, b"d1:ai0e2:aai1ee"),
        (["ä", b"\xff", -3], b"l2:\xc3\xa41:\xffi-3ee"),
        ((), b"le"),
    ],
)
def test_the_encoding_is_the_canonical_one(value, data):
    assert bencode.encode(value) == data


@pytest.mark.parametrize("value", [1.5, None, {"a": None}, {1: "a"}, [set()], "\ud800", {"\ud800": 1}])
def test_what_has_no_encoding_is_an_error(value):
    with pytest.raises(bencode.BencodeError):
        bencode.encode(value)


def test_of_a_key_that_is_there_twice_the_first_counts():
    assert bencode.decode(b"d1:ai1e1:ai2ee") == {b"a": 1}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too early"),
        (b"5:abc", "too early"),
        (b"99999999999999999999:", "too early"),
        (b"d1:a", "too early"),
        (b"d1:ae", "without a value"),
        (b"di1ei2ee", "not a string"),
        (b"dlei2ee", "not a string"),
        (b"ie", "begins no value"),
        (b"i1.5e", "begins no value"),
        (b"i" + b"9" * 5000 + b"e", "begins no value"),
        (b"9" * 5000 + b":", "begins no value"),
        (b"-1:a", "begins no value"),
        (b"i1e\n", "1 bytes follow"),
        (b"l" * 40 + b"e" * 40, "nested too deeply"),
        (b"l" * 60000, "nested too deeply"),
    ],
)
def test_what_is_no_value_is_told(data, why):
    with pytest.raises(bencode.BencodeError, match=why):
        bencode.decode(data)


def test_the_depth_is_for_the_caller_to_choose():
    assert bencode.decode(b"lle1:ae", max_depth=2) == [[], b"a"]
    with pytest.raises(bencode.BencodeError):
        bencode.decode(b"llleee", max_depth=2)
