# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""DNS messages, as bytes and as values.

A name is a tuple of labels, each of bytes, without the root. The data of a record is kept as bytes in which no name is compressed, so that
a record can be moved to another message as it is.
"""

from __future__ import annotations

import ipaddress
import struct
import typing

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 255
IN, CHAOS = 1, 3
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
OPCODE, RCODE = 0x7800, 0x000F

HEADER = 12
MAX_LABEL = 63
# Of a whole name as bytes, with the root.
MAX_NAME = 255
# No server compresses deeper, and a packet that is made for it would take long to read.
MAX_POINTERS = 64
# What a UDP client takes that does not say otherwise.
PLAIN_UDP = 512
# How many bytes of the data of a record come before the names in it, and how many names there are. Only these may be compressed.
NAMES_IN_DATA = {NS: (0, 1), CNAME: (0, 1), SOA: (0, 2), PTR: (0, 1), MX: (2, 1), SRV: (6, 1)}

Name = typing.Tuple[bytes, ...]


class WireError(ValueError):
    """Bytes that are no DNS message, or values that cannot be written as one."""


class Question(typing.NamedTuple):
    name: Name
    type: int
    cls: int = IN


class Record(typing.NamedTuple):
    """`data` is bytes; of an OPT record `cls` is the size that its sender takes by UDP."""

    name: Name
    type: int
    cls: int
    ttl: int
    data: bytes


class Message(typing.NamedTuple):
    ident: int
    flags: int
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    authorities: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()

    @property
    def rcode(self) -> int:
        return self.flags & RCODE


def parse_name(text: str) -> Name:
    """Turn a plain name such as web.service.consul into labels."""
    return tuple(label.encode("utf-8") for label in text.rstrip(".").split(".") if label)


def lowered(name: Name) -> Name:
    return tuple(label.lower() for label in name)


def encode_name(name: Name) -> bytes:
    if any(not 0 < len(label) <= MAX_LABEL for label in name):
        raise WireError("a label is empty or longer than 63 bytes")
    raw = b"".join(bytes((len(label),)) + label for label in name) + b"\0"
    if len(raw) > MAX_NAME:
        raise WireError("a name is longer than 255 bytes")
    return raw


def is_writable(text: str) -> bool:
    """Whether a plain name can stand in a message."""
    name = parse_name(text)
    return bool(name) and all(len(label) <= MAX_LABEL for label in name) and sum(len(label) + 1 for label in name) < MAX_NAME // 2


def decode_name(packet: bytes, at: int, end: int | None = None) -> tuple[Name, int]:
    """Read a name at an offset; return it and the offset behind it. Before `end` what is not a pointer has to end."""
    labels, size, behind, pointers = [], 1, 0, 0
    limit = len(packet) if end is None else end
    while True:
        if at >= limit:
            raise WireError("a name is cut off")
        length = packet[at]
        if length & 0xC0 == 0xC0:
            if at + 2 > limit:
                raise WireError("a pointer is cut off")
            target = (length & 0x3F) << 8 | packet[at + 1]
            behind = behind or at + 2
            # Only backwards: so it comes to an end, however the packet was made.
            pointers += 1
            if target >= at or target < HEADER or pointers > MAX_POINTERS:
                raise WireError("a pointer does not lead back")
            at, limit = target, at
            continue
        if length & 0xC0:
            raise WireError("a label is of an unknown kind")
        at += 1
        if not length:
            return tuple(labels), behind or at
        if at + length > limit:
            raise WireError("a label is cut off")
        size += length + 1
        if size > MAX_NAME:
            raise WireError("a name is longer than 255 bytes")
        labels.append(packet[at : at + length])
        at += length


def decode(packet: bytes) -> Message:
    """Read a message. Raise WireError, and nothing else, whatever the bytes are. What stands behind the message is left out."""
    if len(packet) < HEADER:
        raise WireError("shorter than a header")
    ident, flags, *counts = struct.unpack("!6H", packet[:HEADER])
    at, questions = HEADER, []
    for _dummy in range(counts[0]):
        name, at = decode_name(packet, at)
        if at + 4 > len(packet):
            raise WireError("a question is cut off")
        questions.append(Question(name, *struct.unpack("!2H", packet[at : at + 4])))
        at += 4
    sections = []
    for count in counts[1:]:
        records = []
        for _dummy in range(count):
            record, at = _decode_record(packet, at)
            records.append(record)
        sections.append(tuple(records))
    return Message(ident, flags, tuple(questions), *sections)


def _decode_record(packet: bytes, at: int) -> tuple[Record, int]:
    name, at = decode_name(packet, at)
    if at + 10 > len(packet):
        raise WireError("a record is cut off")
    kind, cls, ttl, length = struct.unpack("!2HIH", packet[at : at + 10])
    at += 10
    end = at + length
    if end > len(packet):
        raise WireError("the data of a record is cut off")
    data = packet[at:end]
    if kind in NAMES_IN_DATA:
        before, names = NAMES_IN_DATA[kind]
        if before > length:
            raise WireError("the data of a record is too short")
        data, here = packet[at : at + before], at + before
        for _dummy in range(names):
            found, here = decode_name(packet, here, end)
            data += encode_name(found)
        data += packet[here:end]
    return Record(name, kind, cls, ttl, data), end


def encode(message: Message) -> bytes:
    """Write a message without compression. Raise WireError for one that is none."""
    sections = (message.answers, message.authorities, message.additionals)
    try:
        parts = [struct.pack("!6H", message.ident, message.flags, len(message.questions), *map(len, sections))]
        parts += [encode_name(question.name) + struct.pack("!2H", question.type, question.cls) for question in message.questions]
        for section in sections:
            for record in section:
                parts.append(encode_name(record.name) + struct.pack("!2HIH", record.type, record.cls, record.ttl, len(record.data)))
                parts.append(record.data)
    except struct.error as error:
        raise WireError(str(error)) from error
    return b"".join(parts)


def fitting(message: Message, limit: int) -> bytes:
    """Write a message in so many bytes: first the additional records go, then answers do, and that is said in it."""
    packet = encode(message)
    if len(packet) <= limit:
        return packet
    options = tuple(record for record in message.additionals if record.type == OPT)
    message = message._replace(additionals=options)
    packet = encode(message)
    while len(packet) > limit and message.answers:
        # Records are much alike: what is left over by the mean is mostly right at once.
        keep = min(len(message.answers) - 1, len(message.answers) * limit // len(packet))
        message = message._replace(flags=message.flags | TC, answers=message.answers[:keep])
        packet = encode(message)
    return packet


def udp_size(query: Message) -> int:
    """How many bytes the sender of a query takes by UDP."""
    return max([PLAIN_UDP, *(record.cls for record in query.additionals if record.type == OPT)])


def address_of(record: Record) -> bytes | None:
    """The address that a record gives, packed; None when it is of another type."""
    return record.data if (record.type, len(record.data)) in ((A, 4), (AAAA, 16)) else None


def target_of(record: Record) -> Name:
    """The name that the data of an SRV record leads to. Raise WireError where it has none."""
    return decode_name(b"\0" * HEADER + record.data, HEADER + 6)[0]


def reversed_address(name: Name) -> str:
    """The address that a reverse name stands for; empty when it is none, or that of a network."""
    labels = [label.decode("ascii", "replace") for label in lowered(name)]
    try:
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34 and all(len(label) == 1 for label in labels[:32]):
            return str(ipaddress.IPv6Address(int("".join(reversed(labels[:32])), 16)))
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return str(ipaddress.IPv4Address(".".join(reversed(labels[:4]))))
    except ValueError:
        pass
    return ""
