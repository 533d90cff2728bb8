# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import itertools
import time

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import admin, transport

KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"


def test_a_call_with_a_password_is_signed_to_the_byte(daemon, monkeypatch):
    monkeypatch.setattr(transport.secrets, "token_hex", lambda size: "abcd1234")
    daemon.script = lambda request: {"pid": 7}
    assert cjdroutes.client_of(daemon).call("Core_pid", auth=True) == {"error": "none", "pid": 7}
    assert daemon.requests == [
        b"d4:argsde1:q6:cookie4:txid8:abcd1234e",
        b"d2:aq8:Core_pid4:argsde6:cookie10:17000000004:hash64:"
        b"da3ddc409f5acd4790b7a54b5727b31bf6e2e95ab183cc0b1b2710716b0bca831:q4:auth4:txid8:abcd1234e",
    ]


def test_every_call_has_a_cookie_and_a_transaction_number_of_its_own(daemon):
    daemon.script = lambda request: {}
    client = cjdroutes.client_of(daemon)
    client.call("Core_pid", auth=True)
    client.call("Core_pid", auth=True)
    asked = [cjdroutes.double.bdecode(data) for data in daemon.requests]
    assert [request["q"] for request in asked] == [b"cookie", b"auth", b"cookie", b"auth"]
    assert len({request["txid"] for request in asked}) == 4


def test_late_and_foreign_and_unreadable_datagrams_are_waited_past(daemon):
    def script(request):
        reply = cjdroutes.double.bencode_reply({"pid": 2, "txid": request["txid"]})
        foreign = cjdroutes.double.bencode_reply({"pid": 1, "txid": "deadbeef"})
        return [foreign, b"d3:pidi1ee", b"le", b"garbage", b"", b"l" * 5000, reply]

    daemon.script = script
    assert cjdroutes.client_of(daemon, attempts=1).call("Core_pid") == {"pid": 2}


def test_a_lost_datagram_is_made_up_for_when_a_repetition_is_harmless(daemon):
    answers = itertools.chain([None], itertools.repeat({"users": ["b", "a"]}))
    daemon.script = lambda request: next(answers)
    assert cjdroutes.client_of(daemon, timeout=0.05, attempts=3).users() == ["a", "b"]
    assert [cjdroutes.double.bdecode(data)["q"] for data in daemon.requests] == [b"cookie", b"auth"] * 2


def test_a_lost_cookie_is_asked_for_again(daemon):
    daemon.cookies = False
    answers = itertools.chain([None, {"cookie": "1700000000"}], itertools.repeat({"users": []}))
    daemon.script = lambda request: next(answers)
    assert cjdroutes.client_of(daemon, timeout=0.05, attempts=2).users() == []


def test_a_peer_is_not_dialled_twice_when_the_reply_is_lost(daemon):
    with pytest.raises(admin.AdminError, match="UDPInterface_beginConnection: no reply within 0.05 s, 1 time; it is not known whether"):
        cjdroutes.client_of(daemon, timeout=0.05, attempts=3).connect("192.0.2.1:4321", KEY, "secret")
    assert daemon.functions() == ["UDPInterface_beginConnection"]


def test_a_function_that_nobody_knows_is_called_once(daemon):
    with pytest.raises(admin.AdminError):
        cjdroutes.client_of(daemon, timeout=0.05, attempts=3).call("Core_exit")
    assert daemon.functions() == ["Core_exit"]


def test_silence_ends_in_an_error_in_the_time_that_was_given(daemon):
    started = time.monotonic()
    with pytest.raises(admin.AdminError, match=rf"cjdns at 127\.0\.0\.1:{daemon.port}, ping: no reply within 0\.1 s, 3 times"):
        cjdroutes.client_of(daemon, attempts=3).call("ping", timeout=0.1)
    assert 0.29 < time.monotonic() - started < 2
    assert len(daemon.requests) == 3


def test_a_flood_of_foreign_replies_does_not_hold_a_call_up(daemon):
    daemon.script = lambda request: [b"d4:txid1:xe"] * 2000
    with pytest.raises(admin.AdminError, match="no reply"):
        cjdroutes.client_of(daemon, attempts=1, timeout=0.1).call("ping")


def test_a_port_where_nothing_listens_is_told():
    with pytest.raises(admin.AdminError, match=r"cjdns at 127\.0\.0\.1:[0-9]+, ping: nothing listens there"):
        admin.Client(port=cjdroutes.free_port(), timeout=1).call("ping")


@pytest.mark.parametrize(("host", "port"), [("a" * 70, 1), ("127.0.0.1", 70000), ("127.0.0.1", 0), ("\ud800", 1), ("255.255.255.255", 1)])
def test_an_address_that_cannot_be_reached_is_told(host, port):
    with pytest.raises(admin.AdminError, match="cannot be reached"):
        admin.Client(host, port, timeout=0.1).call("ping")


def test_a_daemon_is_reached_over_ipv6():
    daemon = cjdroutes.ScriptedDaemon("::1")
    try:
        daemon.script = lambda request: {"error": "Auth failed."}
        with pytest.raises(
            admin.AdminError, match=rf"cjdns at \[::1\]:{daemon.port}, Core_pid: the daemon refuses: Auth failed. The admin"
        ):
            admin.Client("::1", daemon.port, "x").call("Core_pid", auth=True)
    finally:
        daemon.close()


def test_the_words_of_a_refusal_are_kept(daemon):
    daemon.script = lambda request: {"error": "key must end in .k"}
    with pytest.raises(admin.AdminError) as raised:
        cjdroutes.client_of(daemon).connect("192.0.2.1:1", "x", "secret")
    assert raised.value.reason == "key must end in .k"
    assert "secret" not in str(raised.value)


def test_a_refusal_without_a_transaction_number_counts(daemon):
    daemon.script = lambda request: [b"d5:error16:Request too big.e"]
    with pytest.raises(admin.AdminError, match="Request too big"):
        cjdroutes.client_of(daemon).call("ping")
    assert len(daemon.requests) == 1


@pytest.mark.parametrize("auth", [True, False])
def test_a_request_that_is_too_long_is_never_sent(daemon, auth):
    daemon.script = lambda request: {}
    client = cjdroutes.client_of(daemon)
    longest = next(size for size in range(512, 0, -1) if not fails(client, {"data": "x" * size}, auth))
    client.call("ping", {"data": "x" * longest}, auth)
    assert len(daemon.requests[-1]) == 512
    sent = len(daemon.requests)
    with pytest.raises(admin.AdminError, match=r"ping: the request is 1 bytes too long for cjdns \(512\)"):
        client.call("ping", {"data": "x" * (longest + 1)}, auth)
    assert len(daemon.requests) == sent


def fails(client, arguments, auth):
    try:
        client.check("ping", arguments, auth)
    except admin.AdminError:
        return True
    return False


@pytest.mark.parametrize("arguments", [{"data": "a\0b"}, {"data": 1.5}, {"data": None}, {"data": "\ud800"}])
def test_arguments_that_cannot_be_carried_are_never_sent(daemon, arguments):
    with pytest.raises(admin.AdminError, match="ping: the arguments cannot be sent"):
        cjdroutes.client_of(daemon).call("ping", arguments, auth=True)
    assert daemon.requests == []


def test_dialling_without_a_password_is_refused_as_it_would_kill_the_daemon(daemon):
    with pytest.raises(admin.AdminError, match="a password is needed"):
        cjdroutes.client_of(daemon).connect("192.0.2.1:1", KEY, "")
    assert daemon.requests == []


def test_optional_arguments_that_are_empty_are_left_out(daemon):
    daemon.script = lambda request: {}
    cjdroutes.client_of(daemon).connect("192.0.2.1:1", KEY, "secret", interface=2)
    assert set(cjdroutes.double.bdecode(daemon.requests[-1])["args"]) == {"address", "publicKey", "password", "interfaceNumber"}
    cjdroutes.client_of(daemon).connect("192.0.2.1:1", KEY, "secret", "me", "vps1")
    arguments = cjdroutes.double.bdecode(daemon.requests[-1])["args"]
    assert (arguments["login"], arguments["peerName"], arguments["interfaceNumber"]) == (b"me", b"vps1", 0)


@pytest.mark.parametrize("cookie", ["", "abc", "1" * 16, "-1", 1700000000, ["1"]])
def test_what_is_no_cookie_is_told(daemon, cookie):
    daemon.cookie = cookie
    with pytest.raises(admin.AdminError, match="holds no cookie"):
        cjdroutes.client_of(daemon).users()


def test_bytes_that_are_no_utf_8_stay_visible(daemon):
    daemon.script = lambda request: {"text": b"a\xffb", "list": [b"\xc3\xa4"], b"\xfe": {b"\xfd": 1}}
    assert cjdroutes.client_of(daemon).call("ping") == {"error": "none", "text": "a\\xffb", "list": ["ä"], "\\xfe": {"\\xfd": 1}}
