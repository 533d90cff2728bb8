# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import contextlib
import time

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import admin
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
OVERLAY = "fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1"
OTHER = "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"
OTHER_OVERLAY = "fcff:a215:1e7b:a4e9:c00d:813:93b3:7c87"
NOW_MS = 1_700_000_000 * 1024


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


# ---------------------------------------------------------------- peers


def test_a_peer_is_told_in_full(daemon):
    daemon.script = pages_of([entry()])
    client = cjdroutes.client_of(daemon)
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
    assert [peer["silent_ms"] for peer in cjdroutes.client_of(daemon).peers()] == [20_000, 0]


def test_all_pages_are_read_and_sorted_by_key(daemon):
    daemon.script = pages_of([entry(key, slot) for slot, key in enumerate([OTHER, KEY] * 10)])
    peers = cjdroutes.client_of(daemon).peers()
    assert [peer["public_key"] for peer in peers] == [KEY] * 10 + [OTHER] * 10
    assert len({peer["label"] for peer in peers}) == 20
    assert len(daemon.functions()) == 4


def test_an_entry_that_moves_to_the_next_page_is_told_once(daemon):
    entries = [entry(slot=slot) for slot in range(6)]
    daemon.script = lambda request: (
        {"peers": entries, "more": 1} if request["args"]["page"] == 0 else {"peers": [entry(slot=5), entry(slot=6)]}
    )
    assert len(cjdroutes.client_of(daemon).peers()) == 7


def test_a_daemon_that_sends_the_same_page_for_ever_is_left(daemon):
    daemon.script = lambda request: {"peers": [entry(bytesIn=len(daemon.requests))], "more": 1}
    assert len(cjdroutes.client_of(daemon).peers()) == 1
    assert len(daemon.functions()) == 2


def test_an_empty_page_is_the_last(daemon):
    daemon.script = lambda request: {"peers": [entry()] if request["args"]["page"] == 0 else [], "more": 1}
    assert len(cjdroutes.client_of(daemon).peers()) == 1


def test_a_daemon_that_always_has_more_is_told(daemon):
    daemon.script = lambda request: {"peers": [entry(slot=len(daemon.requests))], "more": 1}
    with pytest.raises(admin.AdminError, match="there are more than 100 pages of peers"):
        cjdroutes.client_of(daemon, timeout=5).peers()
    assert len(daemon.functions()) == 100


def test_a_daemon_that_takes_its_time_for_every_page_is_told(daemon):
    def script(request):
        time.sleep(0.06)
        return {"peers": [entry(slot=len(daemon.requests))], "more": 1}

    daemon.script = script
    with pytest.raises(admin.AdminError, match=r"page [0-9]+ of peers did not come within 0\.2 s"):
        cjdroutes.client_of(daemon, timeout=0.1, attempts=2).peers()


def test_release_20_tells_the_parts_of_an_address_apart(daemon):
    old = {"publicKey": KEY, "switchLabel": "0000.0000.0000.0013", "version": 20, "state": "ESTABLISHED", "last": NOW_MS, "isIncoming": 1}
    daemon.script = pages_of([old])
    (peer,) = cjdroutes.client_of(daemon).peers()
    assert (peer["public_key"], peer["address"], peer["version"], peer["label"]) == (KEY, OVERLAY, 20, "0000.0000.0000.0013")
    assert (peer["endpoint"], peer["user"], peer["incoming"], peer["interface"], peer["bytes_in"]) == ("", "", True, -1, 0)


def test_what_is_missing_is_left_empty_and_never_lively(daemon):
    daemon.script = pages_of([{"addr": entry()["addr"]}])
    (peer,) = cjdroutes.client_of(daemon).peers()
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
    client = cjdroutes.client_of(daemon)
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
        cjdroutes.client_of(daemon).peers()


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


@settings(max_examples=150)
@given(st.dictionaries(FIELDS, ANY, max_size=4))
def test_whatever_a_daemon_answers_is_a_value_or_an_error(one_daemon, reply):
    one_daemon.cookies = True
    one_daemon.script = lambda request: [
        cjdroutes.double.bencode(
            {"cookie": "1700000000", **{name.decode(): value for name, value in reply.items()}, "txid": request["txid"]}
        )
    ]
    client = cjdroutes.client_of(one_daemon, timeout=5)
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


@settings(max_examples=40)
@given(st.binary(max_size=200) | st.integers(0, 60).map(lambda size: b"d4:txid" + b"l" * size) | st.just(b"i" + b"9" * 9000 + b"e"))
def test_whatever_bytes_a_daemon_sends_are_an_error_in_the_end(one_daemon, data):
    one_daemon.cookies, one_daemon.script = True, lambda request: [data]
    with pytest.raises(admin.AdminError):
        cjdroutes.client_of(one_daemon, timeout=0.01, attempts=1).call("ping")


# ---------------------------------------------------------------- the daemon itself, interfaces and users


def test_the_node_is_known_by_its_address(daemon):
    daemon.script = lambda request: {"myAddr": f"v22.0000.0000.0000.0001.{KEY}", "myIp6": "ignored", "version": 22}
    assert cjdroutes.client_of(daemon).node() == {"address": OVERLAY, "public_key": KEY, "version": 22}


def test_release_20_is_asked_for_its_own_route(daemon):
    def script(request):
        if request["q"] == b"Core_nodeInfo":
            return {"error": "No functions matched your request, try Admin_availableFunctions()"}
        assert request["args"] == {}
        return {"result": {"key": OTHER, "protocolVersion": 20, "linkCount": 0, "routeLabel": "0000.0000.0000.0001"}}

    daemon.script = script
    assert cjdroutes.client_of(daemon).node() == {"address": OTHER_OVERLAY, "public_key": OTHER, "version": 20}
    assert daemon.functions() == ["Core_nodeInfo", "NodeStore_nodeForAddr"]


@pytest.mark.parametrize("info", [{}, {"myAddr": "x"}, {"myAddr": 1}, {"myAddr": "v22.0000.0000.0000.0001." + "0" * 52 + ".k"}])
def test_a_node_that_does_not_know_itself_is_an_error(daemon, info):
    daemon.script = lambda request: info
    with pytest.raises(admin.AdminError, match="Core_nodeInfo: the address of the node cannot be read"):
        cjdroutes.client_of(daemon).node()


@pytest.mark.parametrize("result", [{}, {"result": 1}, {"result": {"key": 5}}, {"result": {"key": "x.k"}}])
def test_an_old_node_that_does_not_know_itself_is_an_error(daemon, result):
    refusal = {"error": "No functions matched your request, try Admin_availableFunctions()"}
    daemon.script = lambda request: refusal if request["q"] == b"Core_nodeInfo" else result
    with pytest.raises(admin.AdminError, match="NodeStore_nodeForAddr: the public key of the node cannot be read"):
        cjdroutes.client_of(daemon).node()


def test_interfaces_are_told_by_number_and_bind(daemon):
    ifaces = [
        {"ifNum": 2, "name": "ETH/eth0", "beaconState": "DISABLED"},
        {"ifNum": 1, "name": "UDP/IPv6/[::]:4321", "beaconState": "DISABLED"},
        {"ifNum": 0, "name": "UDP/IPv4/0.0.0.0:4321", "beaconState": "DISABLED"},
    ]
    daemon.script = lambda request: {"ifaces": ifaces, "total": 3}
    assert cjdroutes.client_of(daemon).interfaces() == [
        {"number": 0, "bind": "0.0.0.0:4321"},
        {"number": 1, "bind": "[::]:4321"},
        {"number": 2, "bind": "eth0"},
    ]


@pytest.mark.parametrize("iface", ["x", {}, {"ifNum": "0", "name": "a"}, {"ifNum": 0, "name": 1}])
def test_an_interface_that_cannot_be_read_is_an_error(daemon, iface):
    daemon.script = lambda request: {"ifaces": [iface]}
    with pytest.raises(admin.AdminError, match="without a number or a name"):
        cjdroutes.client_of(daemon).interfaces()


@pytest.mark.parametrize("users", [{}, {"users": 1}, {"users": ["a", 1]}])
def test_a_reply_without_users_is_an_error(daemon, users):
    daemon.script = lambda request: users
    with pytest.raises(admin.AdminError, match="no list of users"):
        cjdroutes.client_of(daemon).users()


def test_a_user_whose_password_is_there_already_is_no_error(daemon):
    daemon.script = lambda request: {"error": "Password already added."}
    assert cjdroutes.client_of(daemon).authorize("a", "b") is False


def test_a_user_that_is_gone_already_is_no_error(daemon):
    daemon.script = lambda request: {"users": ["b"]} if request["aq"].endswith(b"list") else {"error": "Unknown error."}
    assert cjdroutes.client_of(daemon).unauthorize("a") is False
    with pytest.raises(admin.AdminError, match="Unknown error"):
        cjdroutes.client_of(daemon).unauthorize("b")


def test_a_link_that_is_gone_already_is_no_error(daemon):
    daemon.script = lambda request: {"success": 0, "error": "no peer found for that key"}
    assert cjdroutes.client_of(daemon).disconnect(KEY) is False
    daemon.script = lambda request: {"success": 0}
    with pytest.raises(admin.AdminError, match="neither success nor an error"):
        cjdroutes.client_of(daemon).disconnect(KEY)


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
