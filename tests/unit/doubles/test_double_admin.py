# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The admin protocol of the cjdroute double, byte by byte where bytes matter."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SILENCE = 0.15


@pytest.fixture(scope="module")
def node(double, node_type, tmp_path_factory):
    """One running router-only node for the tests that do not change it."""
    made = node_type(tmp_path_factory.mktemp("admin"), double, "admin-node")
    made.config["interfaces"]["UDPInterface"].append({"bind": f"[::1]:{made.port}", "connectTo": {}})
    made.start().ready()
    yield made
    made.stop(kill=True)
    made.admin.close()


@pytest.fixture
def admin(node):
    while node.admin.raw(b"", SILENCE / 100):  # late replies of an earlier test
        pass
    return node.admin


# ---------------------------------------------------------------- wire format


@pytest.mark.parametrize(
    "value, wire",
    [
        ({"error": "none", "txid": "07000000"}, b"d000005:error4:none4:txid8:07000000e"),
        ({"q": "pong"}, b"d01:q4:ponge"),
        ({"cookie": "1390480832"}, b"d000006:cookie10:1390480832e"),
        ({"zz": 1, "a": -1}, b"d00002:zzi1e1:ai-1ee"),
    ],
)
def test_replies_are_aligned_by_zeros_and_not_sorted(double, value, wire):
    assert double.bencode_reply(value) == wire


@settings(max_examples=60)
@given(st.dictionaries(st.text(min_size=1, max_size=9), st.integers(-99, 99) | st.text(max_size=9), min_size=1))
def test_every_reply_is_aligned_and_can_be_read(double, value):
    wire = double.bencode_reply(value)
    assert len(wire) % 8 == 4
    read = double.bdecode(wire)
    assert {key: item if isinstance(item, int) else double.text_of(item) for key, item in read.items()} == value


def test_ping_without_txid_ends_as_old_clients_expect(admin):
    assert admin.raw(b"d1:q4:pinge") == b"d01:q4:ponge"


def test_the_txid_comes_back(admin):
    assert admin.ask({"q": "ping", "txid": "any\x01thing"}) == {"q": "pong", "txid": "any\x01thing"}


def test_a_request_over_512_bytes_gets_the_exact_error(admin):
    frame = len("d1:q4:ping4:txid480:e")
    for size in (513 - frame, 600 - frame):
        assert admin.raw(b"d1:q4:ping4:txid%d:%se" % (size, b"x" * size)) == b"d5:error16:Request too big.e"
    size = 512 - frame
    assert admin.raw(b"d1:q4:ping4:txid%d:%se" % (size, b"x" * size)).endswith(b"xe")


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"x",
        b"d",
        b"le",
        b"i1e",
        b"4:ping",
        b"d1:q4:pinge\n",
        b"d1:q4:pingee",
        b"d1:q4:ping",
        b"de",
        b"d1:qi1ee",
        b"d4:txid1:xe",
        b"d1:q9:pinge",
        b"di1e4:pinge",
        b"d1:q4:ping1:xe",
        b"d1:q4:ping1:xi--1ee",
        b"l" * 500,
        b"d1:a" * 120,
        b"d1:q-1:e",
        b"d1:q99999999999999999999999:e",
        b"\xff" * 100,
    ],
)
def test_malformed_requests_are_dropped_in_silence(admin, datagram):
    assert admin.raw(datagram, SILENCE) is None
    assert admin.ask({"q": "ping"}) == {"q": "pong"}


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_no_datagram_crashes_the_bencode_reader(double, data):
    with contextlib.suppress(double.BencodeError):
        double.bdecode(b"d" + data)


@settings(max_examples=60)
@given(
    st.recursive(
        st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=10,
    )
)
def test_bencode_goes_both_ways(double, value):
    assert double.bdecode(double.bencode({"v": value})) == {"v": value}


# ---------------------------------------------------------------- authentication

HASH = "24fbaaf7ca623de7fd055195c3e514ee897baa22a862ab069a7f57cf727eacf0"
ARGS = b"d2:aq8:Core_pid4:argsde6:cookie10:17000000004:hash64:%b1:q4:auth4:txid8:abcd1234e"
BARE = b"d2:aq4:ping6:cookie10:17000000004:hash64:%b1:q4:authe"


@pytest.mark.parametrize(
    "template, final",
    [
        (ARGS, "da3ddc409f5acd4790b7a54b5727b31bf6e2e95ab183cc0b1b2710716b0bca83"),
        (BARE, "89c525194e2ce4f44018e8a478403a14aa2a4626827b0298bfec42e7feb4d287"),
    ],
)
def test_the_worked_examples_of_the_hash(double, monkeypatch, template, final):
    admin = double.Admin.__new__(double.Admin)
    admin.password = b"hunter2secret"
    assert hashlib.sha256(b"hunter2secret1700000000").hexdigest() == HASH
    assert hashlib.sha256(template % HASH.encode()).hexdigest() == final
    sent = template % final.encode()
    monkeypatch.setattr(double.Admin, "cookie", staticmethod(lambda: 1700000000))
    assert admin.auth_valid(double.bdecode(sent), sent)
    for damaged in (sent.replace(b"auth", b"auti"), sent.replace(b"4:hash", b"4:hasj"), template % HASH.encode()):
        assert not admin.auth_valid(double.bdecode(damaged), damaged)
    admin.password = b"another"
    assert not admin.auth_valid(double.bdecode(sent), sent)


@pytest.mark.parametrize("age, valid", [(0, True), (20, True), (21, False), (-1, False)])
def test_a_cookie_is_good_for_20_of_its_seconds(double, monkeypatch, age, valid):
    admin = double.Admin.__new__(double.Admin)
    admin.password = b"hunter2secret"
    final = hashlib.sha256(BARE % HASH.encode()).hexdigest().encode()
    monkeypatch.setattr(double.Admin, "cookie", staticmethod(lambda: 1700000000 + age))
    assert admin.auth_valid(double.bdecode(BARE % final), BARE % final) is valid


def test_the_cookie_counts_1024_milliseconds(admin):
    cookie = int(admin.ask({"q": "cookie"})["cookie"])
    assert abs(cookie - time.time() * 1000 / 1024) < 2


def test_a_captured_cookie_is_of_its_time(double, monkeypatch):
    monkeypatch.setattr(double.time, "time", lambda: 1423852372.5)
    assert double.Admin.cookie() == 1390480832


def test_wrong_passwords_and_unknown_functions_are_told_apart(admin):
    assert admin.ask({"q": "auth", "aq": "ping"}) == {"error": "Auth failed."}
    assert admin.raw(admin.signed("Core_pid", password="wrong")).find(b"12:Auth failed.") > 0
    unmatched = {"error": "No functions matched your request, try Admin_availableFunctions()"}
    assert admin("No_such_function") == unmatched
    assert admin.ask({"q": "No_such_function"}) == unmatched
    assert admin.ask({"q": "AuthorizedPasswords_list"}) == unmatched, "a function that needs authentication"
    assert admin.ask({"q": "auth_valid"}) == unmatched, "not a function of the API"


def test_an_authenticated_request_may_be_repeated_but_not_changed(admin):
    signed = admin.signed("AuthorizedPasswords_list")
    assert admin.raw(signed) == admin.raw(signed)
    assert b"Auth failed." in admin.raw(signed.replace(b"AuthorizedPasswords_list", b"AuthorizedPasswords_lisT"))


def test_a_nul_before_the_hash_makes_it_invisible(admin):
    assert b"Auth failed." in admin.raw(admin.signed("ping", {"a": "\0"}))


def test_the_order_of_the_keys_does_not_matter(admin):
    cookie = admin.ask({"q": "cookie"})["cookie"]
    secret = hashlib.sha256((admin.password + cookie).encode()).hexdigest()
    first = f"d1:q4:auth4:hash64:{secret}6:cookie{len(cookie)}:{cookie}2:aq25:AuthorizedPasswords_list4:txid1:xe"
    first = first.replace("25:Auth", "24:Auth")
    signed = first.replace(secret, hashlib.sha256(first.encode()).hexdigest())
    assert b"5:total" in admin.raw(signed.encode())


def test_a_long_password_counts_only_as_far_as_the_original_reads_it(make_node):
    node = make_node("a")
    node.config["admin"]["password"] = node.admin.password = "p" * 100
    node.start().ready()
    assert "users" in node.admin("AuthorizedPasswords_list")
    node.admin.password = "p" * 63 + "another end"
    assert "users" in node.admin("AuthorizedPasswords_list")
    node.admin.password = "p" * 52
    assert node.admin("AuthorizedPasswords_list") == {"error": "Auth failed."}


def test_the_password_none_opens_everything(make_node):
    node = make_node("a")
    node.config["admin"]["password"] = "NONE"
    node.start().ready()
    assert node.admin.ask({"q": "AuthorizedPasswords_list"})["total"] == 2
    node.admin.password = "whatever"
    assert node.admin("AuthorizedPasswords_list")["total"] == 2


def test_without_a_password_in_the_configuration_nobody_gets_in(make_node):
    node = make_node("a")
    del node.config["admin"]["password"]
    node.start().ready()
    for password in ("", "NONE", "None"):
        node.admin.password = password or "NONE"
        assert node.admin("AuthorizedPasswords_list") == {"error": "Auth failed."}


def test_async_enabled_tells_who_was_authenticated(make_node):
    node = make_node("a")
    node.start().ready()
    assert node.admin.ask({"q": "Admin_asyncEnabled"}) == {"asyncEnabled": 0}
    node.admin("ping")
    assert node.admin.ask({"q": "Admin_asyncEnabled"}) == {"asyncEnabled": 1}


# ---------------------------------------------------------------- functions


def test_functions_come_in_pages_of_eight_the_last_perhaps_empty(admin):
    pages = []
    while not pages or "more" in pages[-1]:
        pages.append(admin.ask({"q": "Admin_availableFunctions", "args": {"page": len(pages)}}))
    sizes = [len(page["availableFunctions"]) for page in pages]
    assert set(sizes[:-1]) == {8} and sizes[-1] < 8
    functions = {name: args for page in pages for name, args in page["availableFunctions"].items()}
    assert len(functions) == sum(sizes)
    assert functions["InterfaceController_disconnectPeer"] == {"pubkey": {"required": 1, "type": "String"}}
    assert functions["NodeStore_dumpTable"] == {"page": {"required": 1, "type": "Int"}}
    assert functions["ping"] == {}
    for name in ("Core_exit", "UDPInterface_beginConnection", "PeeringSeeder_listDnsSeeds", "SwitchPinger_ping", "memory"):
        assert name in functions


def test_an_empty_page_follows_a_full_one(double):
    admin = double.Admin.__new__(double.Admin)
    admin.functions = {f"f{number}": (None, False, {}) for number in range(16)}
    assert admin.Admin_availableFunctions(1)["more"] == 1
    assert admin.Admin_availableFunctions(2) == {"availableFunctions": {}}


@pytest.mark.parametrize(
    "name", ["InterfaceController_peerStats", "InterfaceController_interfaces", "NodeStore_dumpTable", "Admin_availableFunctions"]
)
@pytest.mark.parametrize("page", [-1, 99, 2**62])
def test_pages_beyond_the_end_are_empty(admin, name, page):
    reply = admin(name, page=page)
    assert not any(reply.get(key) for key in ("peers", "ifaces", "routingTable", "availableFunctions"))


def test_missing_and_mistyped_arguments(admin):
    wanted = {"error": "Entry [pubkey] is required and must be of type [String]"}
    assert admin("InterfaceController_disconnectPeer") == wanted
    assert admin("InterfaceController_disconnectPeer", pubkey=1) == wanted
    assert admin("NodeStore_dumpTable", page="0") == {"error": "Entry [page] is required and must be of type [Int]"}
    assert admin("InterfaceController_peerStats", page="''")["total"] == 0, "an optional one of another type is ignored"


def test_who_it_is(admin, node):
    info = admin.ask({"q": "Core_nodeInfo"})
    assert info["myAddr"] == "v22.0000.0000.0000.0001." + node.key
    assert info["myIp6"] == node.ip and len(node.ip) == 39
    assert info["compressedSchemeHex"] == "6114458100" and info["error"] == "none"
    assert admin.ask({"q": "Core_pid"}) == {"pid": node.process.pid}
    assert admin.ask({"q": "memory"})["bytes"] > 1000000
    assert admin.ask({"q": "NodeStore_nodeForAddr"})["result"]["key"] == node.key


def test_interfaces_are_numbered_in_the_order_of_the_file(admin, node):
    assert admin("InterfaceController_interfaces") == {
        "total": 2,
        "ifaces": [
            {"ifNum": 0, "name": f"UDP/IPv4/0.0.0.0:{node.port}", "beaconState": "DISABLED"},
            {"ifNum": 1, "name": f"UDP/IPv6/[::1]:{node.port}", "beaconState": "DISABLED"},
        ],
    }


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"interfaceNumber": 9}, "no such interface for interfaceNumber"),
        ({"interfaceNumber": -1}, "no such interface for interfaceNumber"),
        ({"publicKey": "x.k"}, "key must be 52 characters long"),
        ({"publicKey": "v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0xx"}, "key must end in .k"),
        ({"publicKey": "a0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k"}, "failed to base-32 decode key"),
        ({"publicKey": "00zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k"}, "not a valid cjdns public key"),
        ({"address": "example.org:1"}, "unable to parse ip address and port."),
        ({"address": "[::1]:1"}, "different address type than this socket is bound to."),
        ({"publicKey": "own"}, "invalid cjdns public key."),
        ({"address": None}, "Entry [address] is required and must be of type [String]"),
    ],
)
def test_connections_that_cannot_begin(admin, node, double, changes, error):
    args = {"address": "127.0.0.1:9", "password": "x", "publicKey": "v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k"}
    args.update(changes)
    args = {key: node.key if value == "own" else value for key, value in args.items() if value is not None}
    assert admin("UDPInterface_beginConnection", **args) == {"error": error}
    assert admin.peers() == []


def test_the_switch_has_255_slots(double, sim):
    core = sim.node()
    admin = double.Admin.__new__(double.Admin)
    admin.core = core
    public = double.public_of(double.generate_key())
    for number in range(255):
        assert admin.UDPInterface_beginConnection(f"192.0.2.1:{number + 1}", double.key_text(public), password="x") == {"error": "none"}
    assert admin.UDPInterface_beginConnection("192.0.2.2:1", double.key_text(public), password="x") == {
        "error": "no more space to register with the switch."
    }


def test_beginning_without_a_password_kills_the_core(make_node):
    node = make_node("a")
    node.start().ready()
    key = "v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k"
    assert node.admin("UDPInterface_beginConnection", address="127.0.0.1:9", publicKey=key, wait=0.5) is None
    assert node.process.wait(5) == -6


def test_passwords_are_added_listed_and_removed(make_node):
    node = make_node("a")
    node.start().ready()
    call = node.admin
    assert call("AuthorizedPasswords_list") == {"total": 2, "users": ["Local Peers", "friend-of-a"]}
    assert call("AuthorizedPasswords_add", password="x", user="new", authType=1, displayName="x") == {"error": "none"}
    assert call("AuthorizedPasswords_add", password="x", user="new") == {"error": "Password already added."}
    assert call("AuthorizedPasswords_add", password="x", user="two", ipv6="junk") == {"error": "Invalid IPv6 Address"}
    assert call("AuthorizedPasswords_add", user="two") == {"error": "Entry [password] is required and must be of type [String]"}
    assert call("AuthorizedPasswords_list")["users"] == ["Local Peers", "friend-of-a", "new"]
    assert call("AuthorizedPasswords_remove", user="new") == {"error": "none"}
    assert call("AuthorizedPasswords_remove", user="new") == {"error": "Unknown error."}


def test_peers_are_listed_in_pages_of_six_with_all_fields(make_node, double):
    node = make_node("a")
    for number in range(1, 8):
        key = double.key_text(double.public_of(double.generate_key()))
        node.config["interfaces"]["UDPInterface"][0]["connectTo"][f"127.0.0.1:{number}"] = {
            "publicKey": key,
            "password": "x",
            **({"peerName": f"n{number}"} if number > 1 else {}),
        }
    node.start().ready()
    first, second = (node.admin.ask({"q": "InterfaceController_peerStats", "args": {"page": page}}) for page in (0, 1))
    assert (len(first["peers"]), first["total"], first["more"]) == (6, 7, 1)
    assert (len(second["peers"]), second["total"]) == (1, 7) and "more" not in second
    assert "error" not in first
    fields = {
        "addr",
        "state",
        "lladdr",
        "ifNum",
        "bytesIn",
        "bytesOut",
        "recvKbps",
        "sendKbps",
        "last",
        "isIncoming",
        "duplicates",
        "lostPackets",
        "receivedOutOfRange",
        "receivedPackets",
        "noiseProto",
    }
    peers = first["peers"] + second["peers"]
    assert [set(peer) for peer in peers] == [fields] + [fields | {"user"}] * 6
    for number, peer in enumerate(peers, 1):
        assert re.match(r"^v0\.0000\.0000\.0000\.00[12][0-9a-f]\.[0-9a-z]{52}\.k$", peer["addr"]), peer["addr"]
        assert peer["lladdr"] == f"127.0.0.1:{number}" and peer["state"] in ("INIT", "SENT_HELLO")
        assert peer["isIncoming"] == 0 and abs(peer["last"] - time.time() * 1000) < 10000


def test_peers_that_are_not_there_cannot_be_disconnected(admin):
    key = "v0zyvrjuc4xbzh4n9c4k3qpx7kg8xgndv2k45j9nfgb373m8sss0.k"
    assert admin("InterfaceController_disconnectPeer", pubkey=key) == {"success": 0, "error": "no peer found for that key"}
    assert admin("InterfaceController_disconnectPeer", pubkey="x") == {"success": 0, "error": "bad key"}
    assert admin("InterfaceController_resetPeering", pubkey="x") == {"success": 0, "error": "bad key"}
    assert admin("InterfaceController_resetPeering", pubkey=key) == {"success": 1}
    assert admin("InterfaceController_resetPeering") == {"success": 1}


def test_seeds_and_the_public_peer_are_only_remembered(make_node):
    node = make_node("a")
    node.start().ready()
    call = node.admin
    assert call("PeeringSeeder_listDnsSeeds") == {"seeds": {}, "error": "none"}
    assert call("PeeringSeeder_addDnsSeed", seed="seed.example", trustSnode=1) == {"error": "none"}
    assert call("PeeringSeeder_listDnsSeeds")["seeds"] == {"seed.example": 1}
    assert call("PeeringSeeder_rmDnsSeed", seed="seed.example") == {"error": "none"}
    assert call("PeeringSeeder_rmDnsSeed", seed="seed.example") == {"error": "seed not in list"}
    assert call("PeeringSeeder_publicStatus") == {"error": "none"}


def test_beacons_are_a_setting_that_is_never_acted_upon(make_node):
    node = make_node("a")
    node.config["interfaces"]["UDPInterface"][0].update(beacon=1, beaconPort=64512, beaconDevices=["all"])
    node.start().ready()
    assert node.admin("InterfaceController_interfaces")["ifaces"][0]["beaconState"] == "ACCEPTING"
    assert node.admin("UDPInterface_beacon", interfaceNumber=0) == {"error": "invalid state"}
    assert node.admin("UDPInterface_beacon", interfaceNumber=0, state=0)["stateName"] == "DISABLED"
    assert "never sends" in node.log.read_text()


def test_exit_is_answered_and_then_done(make_node):
    node = make_node("a")
    node.start().ready()
    assert node.admin("Core_exit") == {"error": "none"}
    assert node.process.wait(2) == 0


def test_switch_pings(admin, node):
    own = admin("SwitchPinger_ping", path="0000.0000.0000.0001", keyPing=1, data="hello")
    assert own["result"] == "pong" and own["key"] == node.key and own["data"] == "hello" and own["version"] == 22
    assert admin("SwitchPinger_ping", path="0000.0000.0000.0013", timeout=100)["result"] == "timeout"
    assert admin("SwitchPinger_ping", path="nonsense") == {"error": "path was not parsable."}
