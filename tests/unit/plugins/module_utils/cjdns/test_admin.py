# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import contextlib
import itertools
import time

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import admin, transport
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
OVERLAY = "fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1"
OTHER = "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"
OTHER_OVERLAY = "fcff:a215:1e7b:a4e9:c00d:813:93b3:7c87"
NOW_MS = 1_700_000_000 * 1024


@pytest.fixture(scope="module")
def one_daemon():
    daemon = cjdroutes.ScriptedDaemon()
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(one_daemon):
    one_daemon.requests.clear()
    one_daemon.script, one_daemon.cookie, one_daemon.cookies = (lambda request: None), "1700000000", True
    return one_daemon


def client_of(daemon, **options):
    return admin.Client(port=daemon.port, **{"password": "hunter2secret", "timeout": 0.5, "attempts": 2, **options})


def entry(key=KEY, slot=0x13, **changes):
    """One entry of the daemon's list of peers, as release 22 writes it."""
    return {
        "addr": f"v22.0000.0000.0000.{slot:04x}.{key}",
        "lladdr": "192.0.2.1:4321",
        "ifNum": 1,
        "bytesIn": 10,
        "bytesOut": 20,
        "state": "ESTABLISHED",
        "last": NOW_MS - 1500,
        "isIncoming": 0,
        "user": "vps1",
        **changes,
    }


def pages_of(entries, size=6):
    """A script that answers with pages of peers."""

    def script(request):
        page = request["args"]["page"]
        more = {"more": 1} if (page + 1) * size < len(entries) else {}
        return {"peers": entries[page * size : page * size + size], "total": len(entries), **more}

    return script


# ---------------------------------------------------------------- addresses


def test_an_address_is_split_into_its_parts():
    assert admin.parse_address(f"v22.0000.0000.0000.0013.{KEY}") == (22, "0000.0000.0000.0013", KEY)
    assert admin.parse_address(f"v0.0000.0000.0000.0013.{KEY}").version == 0
    assert admin.parse_address(f"v104.FFFF.0000.0000.0013.{KEY[:-2].upper()}.k") == (104, "ffff.0000.0000.0013", KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY,
        f"22.0000.0000.0000.0013.{KEY}",
        f"v.0000.0000.0000.0013.{KEY}",
        f"v22.0000.0000.0013.{KEY}",
        f"v22.0000.0000.0000.001g.{KEY}",
        f"v22.0000.0000.0000.0013.{KEY}\n",
        f"v22.0000.0000.0000.0013.{KEY[:-1]}",
        "v22.0000.0000.0000.0013." + "0" * 52 + ".k",
        "v22.0000.0000.0000.0013." + "a" * 52 + ".k",
        f"v٢.0000.0000.0000.0013.{KEY}",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError):
        admin.parse_address(text)


@given(
    st.text("v0123456789abcdefghijk.", max_size=90)
    | st.from_regex(r"v[0-9]{1,12}(\.[0-9a-f]{4}){4}\.[0-9b-df-hj-np-z]{51,52}\.k", fullmatch=True)
    | st.builds(
        "v{}.{}.{}.{}.{}.{}".format, st.integers(0, 200), *[st.from_regex("[0-9a-f]{4}", fullmatch=True)] * 4, st.sampled_from([KEY, OTHER])
    )
)
def test_any_text_is_an_address_or_refused(text):
    try:
        address = admin.parse_address(text)
    except ValueError:
        assert not text.endswith((KEY, OTHER))
        return
    assert f"v{text[1:].split('.')[0]}.{address.label}.{address.public_key}" == text
    assert address.version == int(text[1:].split(".")[0])


# ---------------------------------------------------------------- one call


def test_a_call_with_a_password_is_signed_to_the_byte(daemon, monkeypatch):
    monkeypatch.setattr(transport.secrets, "token_hex", lambda size: "abcd1234")
    daemon.script = lambda request: {"pid": 7}
    assert client_of(daemon).call("Core_pid", auth=True) == {"error": "none", "pid": 7}
    assert daemon.requests == [
        b"d4:argsde1:q6:cookie4:txid8:abcd1234e",
        b"d2:aq8:Core_pid4:argsde6:cookie10:17000000004:hash64:"
        b"da3ddc409f5acd4790b7a54b5727b31bf6e2e95ab183cc0b1b2710716b0bca831:q4:auth4:txid8:abcd1234e",
    ]


def test_every_call_has_a_cookie_and_a_transaction_number_of_its_own(daemon):
    daemon.script = lambda request: {}
    client = client_of(daemon)
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
    assert client_of(daemon, attempts=1).call("Core_pid") == {"pid": 2}


def test_a_lost_datagram_is_made_up_for_when_a_repetition_is_harmless(daemon):
    answers = itertools.chain([None], itertools.repeat({"users": ["b", "a"]}))
    daemon.script = lambda request: next(answers)
    assert client_of(daemon, timeout=0.05, attempts=3).users() == ["a", "b"]
    assert [cjdroutes.double.bdecode(data)["q"] for data in daemon.requests] == [b"cookie", b"auth"] * 2


def test_a_lost_cookie_is_asked_for_again(daemon):
    daemon.cookies = False
    answers = itertools.chain([None, {"cookie": "1700000000"}], itertools.repeat({"users": []}))
    daemon.script = lambda request: next(answers)
    assert client_of(daemon, timeout=0.05, attempts=2).users() == []


def test_a_peer_is_not_dialled_twice_when_the_reply_is_lost(daemon):
    with pytest.raises(admin.AdminError, match="UDPInterface_beginConnection: no reply within 0.05 s, 1 time; it is not known whether"):
        client_of(daemon, timeout=0.05, attempts=3).connect("192.0.2.1:4321", KEY, "secret")
    assert daemon.functions() == ["UDPInterface_beginConnection"]


def test_a_function_that_nobody_knows_is_called_once(daemon):
    with pytest.raises(admin.AdminError):
        client_of(daemon, timeout=0.05, attempts=3).call("Core_exit")
    assert daemon.functions() == ["Core_exit"]


def test_silence_ends_in_an_error_in_the_time_that_was_given(daemon):
    started = time.monotonic()
    with pytest.raises(admin.AdminError, match=rf"cjdns at 127\.0\.0\.1:{daemon.port}, ping: no reply within 0\.1 s, 3 times"):
        client_of(daemon, attempts=3).call("ping", timeout=0.1)
    assert 0.29 < time.monotonic() - started < 2
    assert len(daemon.requests) == 3


def test_a_flood_of_foreign_replies_does_not_hold_a_call_up(daemon):
    daemon.script = lambda request: [b"d4:txid1:xe"] * 2000
    with pytest.raises(admin.AdminError, match="no reply"):
        client_of(daemon, attempts=1, timeout=0.1).call("ping")


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
        client_of(daemon).connect("192.0.2.1:1", "x", "secret")
    assert raised.value.reason == "key must end in .k"
    assert "secret" not in str(raised.value)


def test_a_refusal_without_a_transaction_number_counts(daemon):
    daemon.script = lambda request: [b"d5:error16:Request too big.e"]
    with pytest.raises(admin.AdminError, match="Request too big"):
        client_of(daemon).call("ping")
    assert len(daemon.requests) == 1


@pytest.mark.parametrize("auth", [True, False])
def test_a_request_that_is_too_long_is_never_sent(daemon, auth):
    daemon.script = lambda request: {}
    client = client_of(daemon)
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
        client_of(daemon).call("ping", arguments, auth=True)
    assert daemon.requests == []


def test_dialling_without_a_password_is_refused_as_it_would_kill_the_daemon(daemon):
    with pytest.raises(admin.AdminError, match="a password is needed"):
        client_of(daemon).connect("192.0.2.1:1", KEY, "")
    assert daemon.requests == []


def test_optional_arguments_that_are_empty_are_left_out(daemon):
    daemon.script = lambda request: {}
    client_of(daemon).connect("192.0.2.1:1", KEY, "secret", interface=2)
    assert set(cjdroutes.double.bdecode(daemon.requests[-1])["args"]) == {"address", "publicKey", "password", "interfaceNumber"}
    client_of(daemon).connect("192.0.2.1:1", KEY, "secret", "me", "vps1")
    arguments = cjdroutes.double.bdecode(daemon.requests[-1])["args"]
    assert (arguments["login"], arguments["peerName"], arguments["interfaceNumber"]) == (b"me", b"vps1", 0)


@pytest.mark.parametrize("cookie", ["", "abc", "1" * 16, "-1", 1700000000, ["1"]])
def test_what_is_no_cookie_is_told(daemon, cookie):
    daemon.cookie = cookie
    with pytest.raises(admin.AdminError, match="holds no cookie"):
        client_of(daemon).users()


def test_bytes_that_are_no_utf_8_stay_visible(daemon):
    daemon.script = lambda request: {"text": b"a\xffb", "list": [b"\xc3\xa4"], b"\xfe": {b"\xfd": 1}}
    assert client_of(daemon).call("ping") == {"error": "none", "text": "a\\xffb", "list": ["ä"], "\\xfe": {"\\xfd": 1}}


# ---------------------------------------------------------------- peers


def test_a_peer_is_told_in_full(daemon):
    daemon.script = pages_of([entry()])
    client = client_of(daemon)
    assert client.peers() == [
        {
            "public_key": KEY,
            "address": OVERLAY,
            "endpoint": "192.0.2.1:4321",
            "state": "ESTABLISHED",
            "user": "vps1",
            "version": 22,
            "label": "0000.0000.0000.0013",
            "incoming": False,
            "silent_ms": 1500,
            "bytes_in": 10,
            "bytes_out": 20,
            "interface": 1,
        }
    ]
    assert client.dropped == []


def test_silence_is_measured_by_the_daemons_own_clock(daemon):
    """The clock of the test is years ahead of the daemon's here, as that of a machine without a battery is after its start."""
    daemon.script = pages_of([entry(last=NOW_MS - 20_000), entry(OTHER, last=NOW_MS + 900)])
    assert [peer["silent_ms"] for peer in client_of(daemon).peers()] == [20_000, 0]


def test_all_pages_are_read_and_sorted_by_key(daemon):
    daemon.script = pages_of([entry(key, slot) for slot, key in enumerate([OTHER, KEY] * 10)])
    peers = client_of(daemon).peers()
    assert [peer["public_key"] for peer in peers] == [KEY] * 10 + [OTHER] * 10
    assert len({peer["label"] for peer in peers}) == 20
    assert len(daemon.functions()) == 4


def test_an_entry_that_moves_to_the_next_page_is_told_once(daemon):
    entries = [entry(slot=slot) for slot in range(6)]
    daemon.script = lambda request: (
        {"peers": entries, "more": 1} if request["args"]["page"] == 0 else {"peers": [entry(slot=5), entry(slot=6)]}
    )
    assert len(client_of(daemon).peers()) == 7


def test_a_daemon_that_sends_the_same_page_for_ever_is_left(daemon):
    daemon.script = lambda request: {"peers": [entry(bytesIn=len(daemon.requests))], "more": 1}
    assert len(client_of(daemon).peers()) == 1
    assert len(daemon.functions()) == 2


def test_an_empty_page_is_the_last(daemon):
    daemon.script = lambda request: {"peers": [entry()] if request["args"]["page"] == 0 else [], "more": 1}
    assert len(client_of(daemon).peers()) == 1


def test_a_daemon_that_always_has_more_is_told(daemon):
    daemon.script = lambda request: {"peers": [entry(slot=len(daemon.requests))], "more": 1}
    with pytest.raises(admin.AdminError, match="there are more than 100 pages of peers"):
        client_of(daemon, timeout=5).peers()
    assert len(daemon.functions()) == 100


def test_a_daemon_that_takes_its_time_for_every_page_is_told(daemon):
    def script(request):
        time.sleep(0.06)
        return {"peers": [entry(slot=len(daemon.requests))], "more": 1}

    daemon.script = script
    with pytest.raises(admin.AdminError, match=r"page [0-9]+ of peers did not come within 0\.2 s"):
        client_of(daemon, timeout=0.1, attempts=2).peers()


def test_release_20_tells_the_parts_of_an_address_apart(daemon):
    old = {"publicKey": KEY, "switchLabel": "0000.0000.0000.0013", "version": 20, "state": "ESTABLISHED", "last": NOW_MS, "isIncoming": 1}
    daemon.script = pages_of([old])
    (peer,) = client_of(daemon).peers()
    assert (peer["public_key"], peer["address"], peer["version"], peer["label"]) == (KEY, OVERLAY, 20, "0000.0000.0000.0013")
    assert (peer["endpoint"], peer["user"], peer["incoming"], peer["interface"], peer["bytes_in"]) == ("", "", True, -1, 0)


def test_what_is_missing_is_left_empty_and_never_lively(daemon):
    daemon.script = pages_of([{"addr": entry()["addr"]}])
    (peer,) = client_of(daemon).peers()
    assert (peer["state"], peer["silent_ms"]) == ("", NOW_MS)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("text", "it is not a dict"),
        (7, "it is not a dict"),
        ([entry()], "it is not a dict"),
        ({}, "a public key ends in .k"),
        (entry(addr="v22.nonsense"), "v<version>"),
        (entry(addr=5), "addr is not a text"),
        (entry(state=1), "state is not a text"),
        (entry(user=["x"]), "user is not a text"),
        (entry(lladdr={}), "lladdr is not a text"),
        (entry(last="now"), "last is not a number"),
        (entry(bytesIn=[]), "bytesIn is not a number"),
        (entry(ifNum="0"), "ifNum is not a number"),
        ({"publicKey": KEY, "version": "20"}, "version is not a number"),
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out_and_told(daemon, broken, why):
    daemon.script = pages_of([broken, entry(OTHER)])
    client = client_of(daemon)
    assert [peer["public_key"] for peer in client.peers()] == [OTHER]
    assert len(client.dropped) == 1
    assert why in client.dropped[0]
    daemon.script = pages_of([entry()])
    client.peers()
    assert client.dropped == []


@pytest.mark.parametrize("peers", [{}, {"peers": 1}, {"peers": "x"}, {"peers": {"a": 1}}])
def test_a_reply_without_a_list_of_peers_is_an_error(daemon, peers):
    daemon.script = lambda request: peers
    with pytest.raises(admin.AdminError, match="InterfaceController_peerStats: the reply holds no list of peers"):
        client_of(daemon).peers()


ANY = st.recursive(
    st.integers(-(10**19), 10**19)
    | st.binary(max_size=20)
    | st.sampled_from([b"none", b"ESTABLISHED", KEY.encode(), entry()["addr"].encode()]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([b"addr", b"last", b"state", b"publicKey", b"ifNum", b"name", b"key", b"user"]) | st.binary(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
FIELDS = st.sampled_from([b"peers", b"more", b"ifaces", b"users", b"myAddr", b"result", b"success", b"error", b"cookie", b"myIp6"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(FIELDS, ANY, max_size=4))
def test_whatever_a_daemon_answers_is_a_value_or_an_error(one_daemon, reply):
    one_daemon.cookies = True
    one_daemon.script = lambda request: [
        cjdroutes.double.bencode(
            {"cookie": "1700000000", **{name.decode(): value for name, value in reply.items()}, "txid": request["txid"]}
        )
    ]
    client = client_of(one_daemon, timeout=5)
    for ask in (
        client.node,
        client.peers,
        client.interfaces,
        client.users,
        lambda: client.connect("192.0.2.1:1", KEY, "x"),
        lambda: client.disconnect(KEY),
        lambda: client.authorize("a", "b"),
        lambda: client.unauthorize("a"),
    ):
        with contextlib.suppress(admin.AdminError):
            ask()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200) | st.integers(0, 60).map(lambda size: b"d4:txid" + b"l" * size) | st.just(b"i" + b"9" * 9000 + b"e"))
def test_whatever_bytes_a_daemon_sends_are_an_error_in_the_end(one_daemon, data):
    one_daemon.cookies, one_daemon.script = True, lambda request: [data]
    with pytest.raises(admin.AdminError):
        client_of(one_daemon, timeout=0.01, attempts=1).call("ping")


# ---------------------------------------------------------------- the daemon itself, interfaces and users


def test_the_node_is_known_by_its_address(daemon):
    daemon.script = lambda request: {"myAddr": f"v22.0000.0000.0000.0001.{KEY}", "myIp6": "ignored", "version": 22}
    assert client_of(daemon).node() == {"address": OVERLAY, "public_key": KEY, "version": 22}


def test_release_20_is_asked_for_its_own_route(daemon):
    def script(request):
        if request["q"] == b"Core_nodeInfo":
            return {"error": "No functions matched your request, try Admin_availableFunctions()"}
        assert request["args"] == {}
        return {"result": {"key": OTHER, "protocolVersion": 20, "linkCount": 0, "routeLabel": "0000.0000.0000.0001"}}

    daemon.script = script
    assert client_of(daemon).node() == {"address": OTHER_OVERLAY, "public_key": OTHER, "version": 20}
    assert daemon.functions() == ["Core_nodeInfo", "NodeStore_nodeForAddr"]


@pytest.mark.parametrize("info", [{}, {"myAddr": "x"}, {"myAddr": 1}, {"myAddr": "v22.0000.0000.0000.0001." + "0" * 52 + ".k"}])
def test_a_node_that_does_not_know_itself_is_an_error(daemon, info):
    daemon.script = lambda request: info
    with pytest.raises(admin.AdminError, match="Core_nodeInfo: the address of the node cannot be read"):
        client_of(daemon).node()


@pytest.mark.parametrize("result", [{}, {"result": 1}, {"result": {"key": 5}}, {"result": {"key": "x.k"}}])
def test_an_old_node_that_does_not_know_itself_is_an_error(daemon, result):
    refusal = {"error": "No functions matched your request, try Admin_availableFunctions()"}
    daemon.script = lambda request: refusal if request["q"] == b"Core_nodeInfo" else result
    with pytest.raises(admin.AdminError, match="NodeStore_nodeForAddr: the public key of the node cannot be read"):
        client_of(daemon).node()


def test_interfaces_are_told_by_number_and_bind(daemon):
    ifaces = [
        {"ifNum": 2, "name": "ETH/eth0", "beaconState": "DISABLED"},
        {"ifNum": 1, "name": "UDP/IPv6/[::]:4321", "beaconState": "DISABLED"},
        {"ifNum": 0, "name": "UDP/IPv4/0.0.0.0:4321", "beaconState": "DISABLED"},
    ]
    daemon.script = lambda request: {"ifaces": ifaces, "total": 3}
    assert client_of(daemon).interfaces() == [
        {"number": 0, "bind": "0.0.0.0:4321"},
        {"number": 1, "bind": "[::]:4321"},
        {"number": 2, "bind": "eth0"},
    ]


@pytest.mark.parametrize("iface", ["x", {}, {"ifNum": "0", "name": "a"}, {"ifNum": 0, "name": 1}])
def test_an_interface_that_cannot_be_read_is_an_error(daemon, iface):
    daemon.script = lambda request: {"ifaces": [iface]}
    with pytest.raises(admin.AdminError, match="without a number or a name"):
        client_of(daemon).interfaces()


@pytest.mark.parametrize("users", [{}, {"users": 1}, {"users": ["a", 1]}])
def test_a_reply_without_users_is_an_error(daemon, users):
    daemon.script = lambda request: users
    with pytest.raises(admin.AdminError, match="no list of users"):
        client_of(daemon).users()


def test_a_user_whose_password_is_there_already_is_no_error(daemon):
    daemon.script = lambda request: {"error": "Password already added."}
    assert client_of(daemon).authorize("a", "b") is False


def test_a_user_that_is_gone_already_is_no_error(daemon):
    daemon.script = lambda request: {"users": ["b"]} if request["aq"].endswith(b"list") else {"error": "Unknown error."}
    assert client_of(daemon).unauthorize("a") is False
    with pytest.raises(admin.AdminError, match="Unknown error"):
        client_of(daemon).unauthorize("b")


def test_a_link_that_is_gone_already_is_no_error(daemon):
    daemon.script = lambda request: {"success": 0, "error": "no peer found for that key"}
    assert client_of(daemon).disconnect(KEY) is False
    daemon.script = lambda request: {"success": 0}
    with pytest.raises(admin.AdminError, match="neither success nor an error"):
        client_of(daemon).disconnect(KEY)


# ---------------------------------------------------------------- against processes of the double


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    def change(one, _two):
        one.config["interfaces"]["UDPInterface"].append({"bind": f"[::1]:{cjdroutes.free_port()}", "connectTo": {}})
        one.config["admin"]["password"] = one.admin.password = "p" * 60

    with cjdroutes.running(tmp_path_factory.mktemp("nodes"), "one", "two", change=change) as started:
        yield started


def client_for(node):
    return admin.Client(port=node.admin_port, password=node.admin.password, timeout=5)


def test_a_real_daemon_tells_of_itself(nodes):
    one, _two = nodes
    client = client_for(one)
    assert client.node()["public_key"] == one.key
    assert [interface["bind"].partition("]")[0] for interface in client.interfaces()] == [f"0.0.0.0:{one.port}", "[::1"]
    assert client.users() == ["Local Peers", "friend-of-one"]


def test_a_real_daemon_dials_and_drops(nodes):
    one, two = nodes
    client = client_for(one)
    client.connect(f"127.0.0.1:{two.port}", two.key, two.password, name="two")
    assert cjdroutes.wait_until(lambda: [peer["state"] for peer in client.peers()] == ["ESTABLISHED"], 20)
    (peer,) = client.peers()
    assert (peer["public_key"], peer["endpoint"], peer["user"], peer["incoming"]) == (two.key, f"127.0.0.1:{two.port}", "two", False)
    assert peer["silent_ms"] <= admin.LIVE_SILENCE_MS
    (seen,) = client_for(two).peers()
    assert (seen["public_key"], seen["incoming"], seen["user"]) == (one.key, True, "friend-of-two")
    assert client.disconnect(two.key) is True
    assert client.disconnect(two.key) is False
    assert client.peers() == []


def test_a_real_daemon_lets_users_in_and_forgets_them(nodes):
    client = client_for(nodes[0])
    assert (client.authorize("laptop", "secret-of-laptop"), client.authorize("laptop", "secret-of-laptop")) == (True, False)
    assert "laptop" in client.users()
    assert (client.unauthorize("laptop"), client.unauthorize("laptop")) == (True, False)
    assert "laptop" not in client.users()


def test_a_real_daemon_refuses_a_wrong_password(nodes):
    client = admin.Client(port=nodes[0].admin_port, password="wrong", timeout=5)
    with pytest.raises(admin.AdminError, match="Auth failed"):
        client.users()
    assert client.peers() == []


def test_more_peers_than_fit_on_a_page_are_told_by_a_real_daemon(nodes):
    one, two = nodes
    client = client_for(one)
    for port in range(1, 15):
        client.connect(f"127.0.0.1:{port}", two.key, "nobody-is-there")
    try:
        assert sorted(peer["endpoint"] for peer in client.peers()) == sorted(f"127.0.0.1:{port}" for port in range(1, 15))
    finally:
        client.disconnect(two.key)
