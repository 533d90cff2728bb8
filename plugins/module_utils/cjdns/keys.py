# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The keys of cjdns: pure functions, data in, data out.

A private key is a Curve25519 scalar, written as 64 hex digits. Its public key is written in cjdns' own base32 with ``.k`` behind it, and
the overlay address is a hash of the public key. Only keys whose address begins with ``fc`` are keys of cjdns.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re

BASE32 = "0123456789bcdfghjklmnpqrstuvwxyz"
KEY_BYTES = 32
KEY_CHARS = 52
LINK_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
LINK_CHARS = 32

_FIELD_PRIME = 2**255 - 19
# (A - 2) / 4 of the Montgomery curve v^2 = u^3 + A u^2 + u with A = 486662.
_CURVE_A24 = 121665
_BASE_POINT = 9


class KeyFormatError(ValueError):
    """A text is not a key of cjdns; the message says why."""


def base32_encode(data: bytes) -> str:
    """Write bytes in cjdns' base32: the first character holds the lowest five bits."""
    value = int.from_bytes(data, "little")
    length = (len(data) * 8 + 4) // 5
    return "".join(BASE32[(value >> (5 * place)) & 31] for place in range(length))


def base32_decode(text: str) -> bytes:
    """Read cjdns' base32; upper and lower case mean the same."""
    value = 0
    for place, character in enumerate(text.lower()):
        digit = BASE32.find(character)
        if digit < 0:
            raise KeyFormatError(f"character {place + 1} is not one of {BASE32}")
        value |= digit << (5 * place)
    length = len(text) * 5 // 8
    if value >> (8 * length):
        raise KeyFormatError("the last character carries bits that belong to no byte")
    return value.to_bytes(length, "little")


def _scalar_multiply(scalar: bytes, point: int) -> int:
    """Multiply a point of Curve25519 (its u coordinate) by a scalar, with the Montgomery ladder of RFC 7748."""
    clamped = bytearray(scalar)
    clamped[0] &= 248
    clamped[31] = (clamped[31] & 127) | 64
    factor = int.from_bytes(clamped, "little")

    x2, z2, x3, z3 = 1, 0, point, 1
    swapped = 0
    for bit_number in reversed(range(255)):
        bit = (factor >> bit_number) & 1
        if bit != swapped:
            x2, x3, z2, z3 = x3, x2, z3, z2
            swapped = bit
        plus2, minus2 = x2 + z2, x2 - z2
        square_plus, square_minus = plus2 * plus2 % _FIELD_PRIME, minus2 * minus2 % _FIELD_PRIME
        difference = square_plus - square_minus
        cross_a, cross_b = (x3 - z3) * plus2, (x3 + z3) * minus2
        x3 = (cross_a + cross_b) ** 2 % _FIELD_PRIME
        z3 = point * (cross_a - cross_b) ** 2 % _FIELD_PRIME
        x2 = square_plus * square_minus % _FIELD_PRIME
        z2 = difference * (square_plus + _CURVE_A24 * difference) % _FIELD_PRIME
    if swapped:
        x2, z2 = x3, z3
    return x2 * pow(z2, _FIELD_PRIME - 2, _FIELD_PRIME) % _FIELD_PRIME


def public_from_private(private_key: str) -> str:
    """Compute the public key (``<52 characters>.k``) of a private key (64 hex digits)."""
    if not re.fullmatch("[0-9a-fA-F]{64}", private_key):
        raise KeyFormatError("a private key is 64 hex digits")
    public = _scalar_multiply(bytes.fromhex(private_key), _BASE_POINT)
    return base32_encode(public.to_bytes(KEY_BYTES, "little")) + ".k"


def public_key_bytes(public_key: str) -> bytes:
    """Read the 32 bytes out of a public key (``<52 characters>.k``)."""
    body, dot, suffix = public_key.rpartition(".")
    if not dot or suffix != "k":
        raise KeyFormatError("a public key ends in .k")
    if len(body) != KEY_CHARS:
        raise KeyFormatError(f"a public key has {KEY_CHARS} characters before .k, not {len(body)}")
    return base32_decode(body)


def address_from_public(public_key: str) -> str:
    """Compute the overlay address of a public key, in the short notation (``fc12:3:...``)."""
    digest = hashlib.sha512(hashlib.sha512(public_key_bytes(public_key)).digest()).digest()
    if digest[0] != 0xFC:
        raise KeyFormatError("it is not a key of cjdns, as its address would not begin with fc")
    return str(ipaddress.IPv6Address(digest[:16]))


def validate_public_key(public_key: str) -> None:
    """Raise KeyFormatError unless the text is a public key that a daemon accepts."""
    address_from_public(public_key)


def link_password(secret: str, dialler_public_key: str) -> str:
    """Derive the password of one link from the listener's secret and the dialler's public key.

    Every dialler has a password of its own, so that taking one away touches nobody else, and none has to be stored.
    """
    validate_public_key(dialler_public_key)
    if len(secret.strip()) < LINK_CHARS:
        raise KeyFormatError(f"a link secret has at least {LINK_CHARS} characters")
    message = b"vdloo.mesh link 1 " + dialler_public_key.lower().encode("ascii")
    number = int.from_bytes(hmac.new(secret.strip().encode("ascii"), message, hashlib.sha256).digest(), "big")
    characters = []
    for _place in range(LINK_CHARS):
        number, digit = divmod(number, len(LINK_ALPHABET))
        characters.append(LINK_ALPHABET[digit])
    return "".join(characters)
