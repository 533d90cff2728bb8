# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import re
import socket
import struct
import threading

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import dns, host


@pytest.mark.parametrize(
    ("network", "zone"),
    [
        ("fc00::/8", "c.f.ip6.arpa"),
        ("fd12:3450::/28", "5.4.3.2.1.d.f.ip6.arpa"),
        ("10.0.0.0/8", "10.in-addr.arpa"),
        ("192.0.2.0/24", "2.0.192.in-addr.arpa"),
    ],
)
def test_a_network_has_a_reverse_zone(network, zone):
    assert dns.reverse_domain(network) == zone


@pytest.mark.parametrize("network", ["fc00::/7", "10.0.0.0/9", "::/0", "fc00::1/8", "nonsense/8"])
def test_a_network_without_a_reverse_zone_is_refused(network):
    with pytest.raises(host.ResolverError, match=re.escape(network)):
        dns.reverse_domain(network)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:5353#dns.example", "192.0.2.1#5353"),
        ("192.0.2.1%eth0", "192.0.2.1@eth0"),
        ("[2001:db8::1]:53%eth0#dns.example", "2001:db8::1#53@eth0"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("dns.example", None),
    ],
)
def test_a_server_of_resolved_is_put_in_dnsmasqs_words(theirs, ours):
    assert dns.dnsmasq_server(theirs) == ours


def test_a_query_has_the_form_of_rfc_1035():
    assert (
        dns.query("a.example", 28, ident=0x1234) == b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x1c\x00\x01"
    )


@pytest.fixture
def dns_server():
    """A server on a port of its own that answers with what `answer` makes of the query, in turn."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(5)
    replies = []

    def serve():
        try:
            packet, client = sock.recvfrom(512)
        except OSError:
            return
        for make in replies:
            sock.sendto(make(packet), client)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1#{sock.getsockname()[1]}", replies
    thread.join()
    sock.close()


def header(packet, rcode, answers):
    return packet[:2] + struct.pack("!5H", 0x8180 | rcode, 1, answers, 0, 0) + packet[12:]


def test_an_answer_is_understood(dns_server):
    server, replies = dns_server
    replies.append(lambda packet: header(packet, 0, 2))
    assert dns.ask(server, "example.org") == (0, 2)


def test_a_stray_answer_is_passed_over(dns_server):
    server, replies = dns_server
    replies += [
        lambda packet: header(bytes(255 - byte for byte in packet[:2]) + packet[2:], 0, 1),
        lambda packet: b"x",
        lambda packet: header(packet, 3, 0),
    ]
    assert dns.ask(server, "example.org") == (3, 0)


def test_no_answer_is_none(dns_server):
    server, _upstream = dns_server
    assert dns.ask(server, "example.org", timeout=0.05, tries=2) is None
    assert dns.ask("127.0.0.1#9", "x" * 70 + ".org") is None
    assert dns.ask("nonsense", "example.org") is None
