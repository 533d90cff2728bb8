# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""DNS messages: any bytes at all are read or refused, and what was written is read as it was."""

from __future__ import annotations

import contextlib

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import wire
from hypothesis import given
from hypothesis import strategies as st

LABELS = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABELS, max_size=6).map(tuple).filter(lambda name: sum(len(label) + 1 for label in name) < 255)
NUMBERS = st.integers(0, 0xFFFF)


@st.composite
def record(draw):
    kind = draw(st.one_of(st.sampled_from([wire.A, wire.AAAA, wire.TXT, wire.OPT, *wire.NAMES_IN_DATA]), NUMBERS))
    data = draw(st.binary(max_size=40))
    if kind in wire.NAMES_IN_DATA:
        before, names = wire.NAMES_IN_DATA[kind]
        start = draw(st.binary(min_size=before, max_size=before))
        data = start + b"".join(wire.encode_name(draw(NAMES)) for _number in range(names)) + data
    return wire.Record(draw(NAMES), kind, draw(NUMBERS), draw(st.integers(0, 0xFFFFFFFF)), data)


RECORDS = st.lists(record(), max_size=3).map(tuple)
QUESTIONS = st.lists(st.builds(wire.Question, NAMES, NUMBERS, NUMBERS), max_size=2).map(tuple)
MESSAGES = st.builds(wire.Message, NUMBERS, NUMBERS, QUESTIONS, RECORDS, RECORDS, RECORDS)


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(packet):
    try:
        message = wire.decode(packet)
    except wire.WireError:
        return
    assert isinstance(message, wire.Message)


@given(MESSAGES, st.data())
def test_a_damaged_message_is_read_or_refused(message, data):
    packet = bytearray(wire.encode(message))
    for _number in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(wire.WireError):
        wire.decode(bytes(packet[: data.draw(st.integers(0, len(packet)))]))


@given(MESSAGES)
def test_what_was_written_is_read_as_it_was(message):
    assert wire.decode(wire.encode(message)) == message


@given(MESSAGES, st.integers(512, 4096))
def test_a_message_that_is_cut_to_a_size_says_so(message, limit):
    packet = wire.fitting(message, limit)
    cut = wire.decode(packet)
    assert cut.questions == message.questions and cut.answers == message.answers[: len(cut.answers)]
    assert (len(cut.answers) < len(message.answers)) <= bool(cut.flags & wire.TC)
    assert len(packet) <= limit or not cut.answers


def test_names_that_share_their_end_are_read_whole():
    name = b"\x03web\x07service\x06consul\0"
    srv = b"\0\1\0\1\x1f\x90" + b"\2n1\xc0\x10"
    packet = b"\0\1\x80\0\0\1\0\1\0\0\0\0" + name + b"\0\x21\0\1" + b"\xc0\x0c\0\x21\0\1\0\0\0\5" + len(srv).to_bytes(2, "big") + srv
    found = wire.decode(packet).answers[0]
    assert found.name == (b"web", b"service", b"consul")
    assert wire.target_of(found) == (b"n1", b"service", b"consul")
    assert wire.decode(wire.encode(wire.decode(packet))) == wire.decode(packet)


@pytest.mark.parametrize(
    "name",
    [b"\xc0\x0c", b"\xc0\x20", b"\xc0\x00", b"\x01a\xc0\x0c", b"\x40a\0", b"\x05ab", b"\xc0", b""],
    ids=["itself", "ahead", "header", "circle", "kind", "cut", "half", "nothing"],
)
def test_a_name_that_leads_nowhere_is_refused(name):
    with pytest.raises(wire.WireError):
        wire.decode(b"\0\1\0\0\0\1\0\0\0\0\0\0" + name)


def test_a_chain_of_pointers_ends():
    chain = b"".join((0xC000 | (12 + 2 * max(0, at - 1))).to_bytes(2, "big") for at in range(1000))
    with pytest.raises(wire.WireError):
        wire.decode_name(b"\0" * 10 + b"\0\0" + chain, 12 + 2 * 900)


@pytest.mark.parametrize("name", [(b"",), (b"a" * 64,), (b"a" * 60,) * 5])
def test_a_name_that_is_none_is_not_written(name):
    with pytest.raises(wire.WireError):
        wire.encode_name(name)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("1.2.0.192.in-addr.arpa", "192.0.2.1"),
        ("1" + ".0" * 29 + ".C.F.ip6.arpa", "fc00::1"),
        ("0.192.in-addr.arpa", ""),
        ("1.c.f.ip6.arpa", ""),
        ("x.2.0.192.in-addr.arpa", ""),
        ("web.service.consul", ""),
    ],
)
def test_a_reverse_name_says_its_address(name, address):
    assert wire.reversed_address(wire.parse_name(name)) == address
