# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Bencode, the encoding of the admin interface of cjdns: pure functions, data in, data out.

Whole numbers, byte strings, lists and dicts. The daemon aligns its replies by zeros before the length of a string, and does not sort
the keys of a dict; a reader has to take both.
"""

from __future__ import annotations

import re

# Deeper than anything the daemon sends, and far from the end of the stack.
MAX_DEPTH = 32

_NUMBER = re.compile(rb"i(-?[0-9]{1,20})e")
_LENGTH = re.compile(rb"([0-9]{1,20}):")


class BencodeError(ValueError):
    """A value cannot be encoded, or bytes cannot be decoded; the message says why."""


def _raw(value) -> bytes:
    """The bytes of a text."""
    if isinstance(value, str):
        try:
            value = value.encode("utf-8")
        except UnicodeEncodeError:
            raise BencodeError("a text holds half a character (a lone surrogate)") from None
    if not isinstance(value, bytes):
        raise BencodeError(f"a value of type {type(value).__name__} cannot be encoded")
    return value


def encode(value) -> bytes:
    """Encode whole numbers, truth values (as 0 and 1), text (as UTF-8), bytes, lists and dicts; keys are sorted; raises BencodeError."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, (list, tuple)):
        return b"l" + b"".join(encode(item) for item in value) + b"e"
    if isinstance(value, dict):
        pairs = sorted((_raw(name), encode(item)) for name, item in value.items())
        return b"d" + b"".join(encode(name) + item for name, item in pairs) + b"e"
    data = _raw(value)
    return b"%d:%s" % (len(data), data)


def decode(data: bytes, max_depth: int = MAX_DEPTH):
    """Decode the one value that is all of the data: int, bytes, list, or dict with keys of bytes.

    Of a key that is there twice, the first counts, as it does for the daemon. Raises BencodeError.
    """
    value, end = _decode_at(data, 0, max_depth)
    if end != len(data):
        raise BencodeError(f"{len(data) - end} bytes follow the value")
    return value


def _decode_at(data: bytes, start: int, depth: int):
    """Decode the value that begins at a place; return it with the place behind it."""
    kind = data[start : start + 1]
    if kind in (b"l", b"d"):
        if depth <= 0:
            raise BencodeError("lists and dicts are nested too deeply")
        items, place = [], start + 1
        while data[place : place + 1] != b"e":
            item, place = _decode_at(data, place, depth - 1)
            items.append(item)
        return (items if kind == b"l" else _paired(items)), place + 1
    number = _NUMBER.match(data, start)
    if number:
        return int(number.group(1)), number.end()
    length = _LENGTH.match(data, start)
    if not length:
        raise BencodeError(f"byte {start + 1} begins no value" if kind else "the data ends too early")
    end = length.end() + int(length.group(1))
    if end > len(data):
        raise BencodeError("the data ends too early")
    return data[length.end() : end], end


def _paired(items: list) -> dict:
    if len(items) % 2:
        raise BencodeError("a dict has a key without a value")
    pairs: dict = {}
    for name, item in zip(items[::2], items[1::2]):
        if not isinstance(name, bytes):
            raise BencodeError("a key is not a string")
        pairs.setdefault(name, item)
    return pairs
