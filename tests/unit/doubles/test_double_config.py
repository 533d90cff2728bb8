# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The configuration dialect of the cjdroute double."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ACCEPTED = [
    (b"{}", {}),
    (b'{"a": 1, "b": -2, "c": "x", "d": [1, [], {}], "e": {"f": ""}}', {"a": 1, "b": -2, "c": "x", "d": [1, [], {}], "e": {"f": ""}}),
    (b'// first\n{ /* one */ "a" /* two */ : // three\n 1 } // end', {"a": 1}),
    (b'{"a": "// no comment", "b": "/* nor this */"}', {"a": "// no comment", "b": "/* nor this */"}),
    (rb'{"a": "\x41\x22\x5c"}', {"a": 'A"\\'}),
    (b'\n\t {"a":1}\n\n', {"a": 1}),
    (b'{"a": 1, "a": 2}', {"a": 2}),
    (b'{"a": 9223372036854775807, "b": -9223372036854775808}', {"a": 2**63 - 1, "b": -(2**63)}),
    (b'{"url": "http:\xc3\xa9"}', {"url": "http:\u00e9"}),
]

REJECTED = [
    b"",
    b"   ",
    b"[]",
    b"1",
    b'"a"',
    b"{",
    b'{"a"}',
    b'{"a":}',
    b'{"a": 1',
    b'{"a" 1}',
    b"{a: 1}",
    b"{'a': 1}",
    b'{"a": true}',
    b'{"a": false}',
    b'{"a": null}',
    b'{"a": 1.5}',
    b'{"a": 1e3}',
    b'{"a": +1}',
    b'{"a": -}',
    rb'{"a": "\n"}',
    rb'{"a": "\""}',
    rb'{"a": "\\"}',
    rb'{"a": "\/"}',
    rb'{"a": "\u0041"}',
    rb'{"a": "\x4"}',
    rb'{"a": "\xzz"}',
    b'{"a": 1}\r\n',
    b'{\r\n"a": 1}',
    b'{"a": "unclosed}',
    b"{} x",
    b"{} {}",
    b'{"a": 1} /* unclosed',
    b'{"a": 1 /* closed twice **/ }',
    b'{"a": 9223372036854775808}',
    b"{1: 2}",
    b'{"a": [1}',
    b'{"a": 1]',
    b"\xef\xbb\xbf{}",
]

ONLY_LAX = [
    (b'{"a": 1,}', {"a": 1}),
    (b'{"a": [1, 2,]}', {"a": [1, 2]}),
    (b'{"a": [1 2]}', {"a": [1, 2]}),
    (b'{"a": 1 "b": 2}', {"a": 1, "b": 2}),
    (b'{"a": 1\n/* the next */ "b": 2,\n}', {"a": 1, "b": 2}),
]


@pytest.mark.parametrize("text, expected", ACCEPTED)
def test_accepted(double, text, expected):
    assert double.parse_config(text) == expected


@pytest.mark.parametrize("text", REJECTED)
def test_rejected_in_any_mode(double, text):
    with pytest.raises(double.ConfigError):
        double.parse_config(text)
    with pytest.raises(double.ConfigError):
        double.ConfigParser(text, lax=True).document()


@pytest.mark.parametrize("text, expected", ONLY_LAX)
def test_commas_may_be_wrong_unless_version_2_asks_for_strictness(double, text, expected):
    assert double.parse_config(text) == expected
    assert double.parse_config(text.replace(b"{", b'{"version": 1, ', 1)) == dict(expected, version=1)
    with pytest.raises(double.ConfigError):
        double.parse_config(text.replace(b"{", b'{"version": 2, ', 1))


def test_errors_tell_the_line(double):
    with pytest.raises(double.ConfigError, match="line 3"):
        double.parse_config(b'{\n"a": 1,\n"b": true\n}')


VALUES = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_what_is_printed_can_be_read_back(double, config):
    printed = double.dump_config(config)
    assert printed.isascii()
    assert double.ConfigParser(printed.encode()).document() == config


@settings(max_examples=60)
@given(st.dictionaries(st.text("abc xyz09-_.:/"), st.integers(0, 9) | st.text("abc xyz09-_.:/")))
def test_plain_values_are_printed_as_real_json(double, config):
    assert json.loads(double.dump_config(config)) == config


FRAGMENTS = st.sampled_from(["{", "}", "[", "]", ",", ":", '"', '"a"', "1", "-", " ", "\n", "\r", "//", "/*", "*/", "\\x41", "\\", "true"])


@settings(max_examples=60)
@given(st.lists(FRAGMENTS | st.text(max_size=3), max_size=30), st.booleans())
def test_no_text_crashes_the_parser(double, parts, lax):
    with contextlib.suppress(double.ConfigError):
        double.ConfigParser("".join(["{"] + parts).encode(), lax).document()


@pytest.mark.parametrize("text", [b"[" * 100000, b'{"a":' * 100000, b"{" + b'"a":[' * 5000 + b"]" * 5000 + b"}"])
def test_deep_nesting_is_an_error_and_not_a_crash(double, text):
    with pytest.raises(double.ConfigError):
        double.parse_config(b'{"a":' + text)


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(double, data):
    with contextlib.suppress(double.ConfigError):
        double.parse_config(data)
