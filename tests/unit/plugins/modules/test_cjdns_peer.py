# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import time

import cjdroutes
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_peer

KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
SECRET = "a-secret-that-nobody-may-see"


def wire(one, two, three):
    """One also listens on IPv6, and dials three, so that a link is there that nobody may touch."""
    for node in (one, two):
        node.port6 = cjdroutes.free_port()
        node.config["interfaces"]["UDPInterface"].append({"bind": f"[::1]:{node.port6}", "connectTo": {}})
    one.dial(three)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with cjdroutes.running(tmp_path_factory.mktemp("nodes"), "one", "two", "three", change=wire) as nodes:
        yield nodes


@pytest.fixture
def nodes(running):
    """(one, two), not linked with each other. Afterwards one still has its link with three: nothing was restarted."""
    one, two, three = running
    assert cjdroutes.wait_until(lambda: one.state_of(three) == ["ESTABLISHED"], 20)
    process = one.admin.ask({"q": "Core_pid"})["pid"]
    yield one, two
    assert (one.state_of(three), one.admin.ask({"q": "Core_pid"})["pid"]) == (["ESTABLISHED"], process)
    for node in (one, two):
        for user in node.admin("AuthorizedPasswords_list")["users"]:
            if user not in ("Local Peers", f"friend-of-{node.name}"):
                node.admin("AuthorizedPasswords_remove", user=user)

    def parted():
        for node, other in ((one, two), (two, one)):
            node.admin("InterfaceController_disconnectPeer", pubkey=other.key)
        return one.state_of(two) == two.state_of(one) == []

    assert cjdroutes.wait_until(parted)


def run(capsys, node=None, check=False, **options):
    if node is not None:
        options["config_path"] = str(node.path)
    with patch_module_args({**options, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
        cjdns_peer.main()
    output = capsys.readouterr().out
    assert SECRET not in output.partition('"invocation"')[0]
    return json.loads(output)


def dial(two, **changes):
    return {"public_key": two.key, "address": f"127.0.0.1:{two.port}", "password": two.password, "name": "two", **changes}


def links(node, other):
    """(state, dialled or not, endpoint) of the links of a node with another."""
    return [(peer["state"], not peer["isIncoming"], peer["lladdr"]) for peer in node.admin.peers() if peer["addr"].endswith(other.key)]


# ---------------------------------------------------------------- dialling


def test_a_peer_is_dialled_and_waited_for(capsys, nodes):
    one, two = nodes
    result = run(capsys, one, **dial(two, wait=20))
    assert (result["changed"], result["link_state"]) == (True, "ESTABLISHED")
    assert result["actions"] == [f"dialled 127.0.0.1:{two.port} over interface 0"]
    assert json.loads(result["diff"]["before"]) == {"links": []}
    assert json.loads(result["diff"]["after"]) == {"links": [f"dialled 127.0.0.1:{two.port}"]}
    assert links(one, two) == [("ESTABLISHED", True, f"127.0.0.1:{two.port}")]

    again = run(capsys, one, **dial(two, wait=20))
    assert (again["changed"], again["actions"], again["link_state"]) == (False, [], "ESTABLISHED")
    assert again["diff"]["before"] == again["diff"]["after"]
    # The other side has a link as well: it need not dial.
    assert not run(capsys, two, **dial(one))["changed"]


def test_check_mode_foresees_the_same_and_dials_nobody(capsys, nodes):
    one, two = nodes
    started = time.monotonic()
    foreseen = run(capsys, one, check=True, **dial(two, wait=20))
    assert time.monotonic() - started < 10
    assert links(one, two) == []
    done = run(capsys, one, **dial(two, wait=20))
    assert (foreseen["changed"], foreseen["actions"], foreseen["diff"]) == (True, done["actions"], done["diff"])
    assert foreseen["link_state"] == ""


def test_the_interface_is_that_of_the_address_family(capsys, nodes):
    one, two = nodes
    result = run(capsys, one, **dial(two, address=f"[::1]:{two.port6}", wait=20))
    assert result["actions"] == [f"dialled [::1]:{two.port6} over interface 1"]
    assert result["link_state"] == "ESTABLISHED"


def test_a_family_without_an_interface_is_told(capsys, running):
    one, _two, three = running
    for check in (True, False):
        result = run(capsys, three, check=check, public_key=KEY, address="[2001:db8::1]:4321", password=SECRET)
        assert result["failed"]
        assert "[2001:db8::1]:4321 is IPv6, but the daemon has no UDP interface for it" in result["msg"]
    assert [peer["addr"].endswith(one.key) for peer in three.admin.peers()] == [True]


def test_a_login_is_sent_along(capsys, nodes):
    one, two = nodes
    two.admin("AuthorizedPasswords_add", password=SECRET, user="laptop")
    assert run(capsys, one, **dial(two, password=SECRET, login="laptop", wait=20))["link_state"] == "ESTABLISHED"
    assert [peer["user"] for peer in two.admin.peers() if peer["addr"].endswith(one.key)] == ["laptop"]


def test_a_wrong_password_is_told_when_it_was_waited_for(capsys, nodes):
    one, two = nodes
    result = run(capsys, one, **dial(two, password=SECRET, wait=1))
    assert (result["failed"], result["changed"], result["link_state"]) == (True, True, "SENT_HELLO")
    assert "The link with two was not established within 1 s: its last state was SENT_HELLO." in result["msg"]
    assert "to dial with another password, use state=absent first" in result["msg"]
    # It is being dialled: nothing to change, but still no link.
    again = run(capsys, one, **dial(two, wait=1))
    assert (again["failed"], again["changed"]) == (True, False)
    # The advice holds.
    run(capsys, one, state="absent", public_key=two.key)
    assert run(capsys, one, **dial(two, wait=20))["link_state"] == "ESTABLISHED"


def test_an_endpoint_that_is_being_dialled_is_left_alone(capsys, nodes):
    one, two = nodes
    dead = cjdroutes.free_port()
    first = run(capsys, one, **dial(two, address=f"127.0.0.1:{dead}"))
    assert (first["changed"], first["link_state"]) == (True, "SENT_HELLO")
    again = run(capsys, one, **dial(two, address=f"127.0.0.1:{dead}"))
    assert (again["changed"], again["link_state"]) == (False, "SENT_HELLO")


def test_an_endpoint_that_leads_nowhere_is_given_up_for_another(capsys, nodes):
    one, two = nodes
    dead = cjdroutes.free_port()
    run(capsys, one, **dial(two, address=f"127.0.0.1:{dead}"))
    foreseen = run(capsys, one, check=True, **dial(two))
    result = run(capsys, one, **dial(two, wait=20))
    assert (
        result["actions"] == [f"gave up dialling 127.0.0.1:{dead}", f"dialled 127.0.0.1:{two.port} over interface 0"] == foreseen["actions"]
    )
    assert json.loads(result["diff"]["before"]) == {"links": [f"dialled 127.0.0.1:{dead}"]}
    assert links(one, two) == [("ESTABLISHED", True, f"127.0.0.1:{two.port}")]


def test_a_link_that_works_is_kept_whatever_the_address(capsys, nodes):
    one, two = nodes
    run(capsys, one, **dial(two, wait=20))
    assert not run(capsys, one, **dial(two, address=f"127.0.0.1:{cjdroutes.free_port()}"))["changed"]


def test_a_request_that_is_too_long_ends_before_anything_is_given_up(capsys, nodes):
    one, two = nodes
    dead = cjdroutes.free_port()
    run(capsys, one, **dial(two, address=f"127.0.0.1:{dead}"))
    for check in (True, False):
        result = run(capsys, one, check=check, **dial(two, password=SECRET * 20))
        assert (result["failed"], result["changed"]) == (True, False)
        assert "bytes too long for cjdns (512)" in result["msg"]
    assert links(one, two) == [("SENT_HELLO", True, f"127.0.0.1:{dead}")]


@pytest.mark.parametrize(
    ("told", "wished", "same"),
    [
        ("192.0.2.1:4321", "192.0.2.1:4321", True),
        ("192.0.2.1:4321", "192.0.2.1:4322", False),
        ("192.0.2.1:4321", "192.0.2.2:4321", False),
        ("[2001:db8:0:0::1]:4321", "[2001:DB8::1]:4321", True),
        ("[2001:db8::1]:4321", "192.0.2.1:4321", False),
        ("00:11:22:33:44:55", "192.0.2.1:4321", False),
        ("", "192.0.2.1:4321", True),
    ],
)
def test_endpoints_are_compared_by_what_they_mean(told, wished, same):
    assert cjdns_peer.is_same_endpoint(told, wished) is same


@pytest.mark.parametrize(
    ("bind", "family"),
    [("0.0.0.0:4321", 4), ("[::]:4321", 6), ("192.0.2.1:1", 4), ("eth0", 0), ("", 0), ("[::]", 0), ("00:11:22:33:44:55", 0)],
)
def test_the_family_of_an_interface_is_that_of_its_address(bind, family):
    assert cjdns_peer.family_of(bind) == family


def test_the_state_that_is_told_is_that_of_the_best_link():
    def link(state, incoming, silent_ms=0):
        return {"state": state, "incoming": incoming, "silent_ms": silent_ms}

    assert cjdns_peer.best_state([]) == ""
    assert cjdns_peer.best_state([link("UNRESPONSIVE", False), link("ESTABLISHED", True)]) == "ESTABLISHED"
    assert cjdns_peer.best_state([link("UNRESPONSIVE", True), link("SENT_HELLO", False)]) == "SENT_HELLO"
    assert cjdns_peer.best_state([link("UNRESPONSIVE", False, 99), link("SENT_HELLO", False, 5)]) == "SENT_HELLO"


# ---------------------------------------------------------------- letting in


def test_a_peer_is_let_in(capsys, nodes):
    one, two = nodes
    wished = {"public_key": two.key, "login": "laptop", "password": SECRET}
    foreseen = run(capsys, one, check=True, **wished)
    assert "laptop" not in one.admin("AuthorizedPasswords_list")["users"]
    result = run(capsys, one, **wished)
    assert (result["changed"], result["actions"], result["link_state"]) == (True, ["let laptop in"], "")
    assert (foreseen["actions"], foreseen["diff"]) == (result["actions"], result["diff"])
    assert not run(capsys, one, **wished)["changed"]

    run(capsys, two, **dial(one, password=SECRET))
    assert run(capsys, one, **wished, wait=20)["link_state"] == "ESTABLISHED"


def test_a_password_that_is_too_long_is_told_in_check_mode_too(capsys, nodes):
    one, two = nodes
    for check in (True, False):
        result = run(capsys, one, check=check, public_key=two.key, login="laptop", password=SECRET * 20)
        assert "AuthorizedPasswords_add: the request is" in result["msg"]


def test_a_peer_that_never_dials_is_told_when_it_was_waited_for(capsys, nodes):
    one, two = nodes
    result = run(capsys, one, public_key=two.key, login="laptop", password=SECRET, wait=1)
    assert (result["failed"], result["changed"]) == (True, True)
    assert f"The link with {two.key} was not established within 1 s: there is none. See that the peer dials this node" in result["msg"]


# ---------------------------------------------------------------- dropping


def test_a_link_is_dropped(capsys, nodes):
    one, two = nodes
    run(capsys, one, **dial(two, wait=20))
    foreseen = run(capsys, one, check=True, state="absent", public_key=two.key)
    assert [state for state, *_rest in links(one, two)] == ["ESTABLISHED"]
    result = run(capsys, one, state="absent", public_key=two.key)
    assert (result["changed"], result["link_state"], links(one, two)) == (True, "", [])
    assert result["actions"] == foreseen["actions"] == [f"dropped: dialled 127.0.0.1:{two.port}"]
    assert json.loads(result["diff"]["after"]) == {"links": [], "users": []}
    assert not run(capsys, one, state="absent", public_key=two.key)["changed"]


def test_a_peer_that_dialled_is_thrown_out_with_its_password(capsys, nodes):
    one, two = nodes
    run(capsys, one, public_key=two.key, login="laptop", password=SECRET)
    run(capsys, two, **dial(one, password=SECRET, wait=20))
    assert [(state, dialled) for state, dialled, _user in links(one, two)] == [("ESTABLISHED", False)]
    result = run(capsys, one, state="absent", public_key=two.key, login="laptop")
    assert result["actions"][0] == "took the password of laptop away"
    assert result["actions"][1].startswith("dropped: accepted from 127.0.0.1:")
    # The peer goes on dialling, and is not let in.
    assert not cjdroutes.wait_until(lambda: links(one, two), 2.5)
    assert not run(capsys, one, state="absent", public_key=two.key, login="laptop")["changed"]


def test_the_login_at_a_peer_that_was_dialled_is_not_a_user_of_this_node(capsys, nodes):
    one, two = nodes
    run(capsys, one, public_key=two.key, login="laptop", password=SECRET)
    run(capsys, one, **dial(two, login="laptop", state="absent"))
    assert "laptop" in one.admin("AuthorizedPasswords_list")["users"]


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"public_key": "x"}, "public_key 'x' cannot be used: a public key ends in .k"),
        ({"public_key": "0" * 52 + ".k"}, "it is not a key of cjdns"),
        ({"address": "vps1.example.com:4321"}, "address 'vps1.example.com:4321' cannot be used: cjdns takes no host names"),
        ({"address": "192.0.2.1"}, "write it as IP:PORT"),
        ({"address": "[fc00::1]:4321"}, "is an overlay address"),
        ({"password": None}, "password is missing"),
        ({"password": ""}, "password is missing"),
        ({"address": None}, "login is missing: set it to let a peer in, or set address to dial one"),
        ({"name": "Büro"}, "name holds a character that cjdns cannot read"),
        ({"login": 'a"b'}, "login holds a character that cjdns cannot read"),
        ({"password": "a\nb"}, "password holds a character that cjdns cannot read"),
        ({"state": "absent", "address": "vps1:1"}, "cjdns takes no host names"),
    ],
)
def test_what_cannot_be_used_is_told_before_the_daemon_is_asked(capsys, tmp_path, options, message):
    wished = {"public_key": KEY, "address": "192.0.2.1:4321", "password": SECRET, **options}
    result = run(capsys, config_path=str(tmp_path / "none"), **{name: value for name, value in wished.items() if value is not None})
    assert result["failed"]
    assert message in result["msg"]


def test_everything_that_is_wrong_is_told_at_once(capsys):
    result = run(capsys, public_key="x", address="y")
    assert all(part in result["msg"] for part in ("public_key", "address", "password"))


def test_a_node_is_not_its_own_peer(capsys, nodes):
    one, _two = nodes
    for state in ("present", "absent"):
        result = run(capsys, one, state=state, **dial(one, public_key=one.key[:-2].upper() + ".k"))
        assert "public_key is that of the node itself" in result["msg"]


def test_without_the_admin_password_nothing_is_tried(capsys, tmp_path):
    result = run(capsys, config_path=str(tmp_path / "none"), public_key=KEY, state="absent")
    assert f"The admin password of cjdns is not known: {tmp_path / 'none'} is not there" in result["msg"]


def test_a_daemon_that_is_down_is_told(capsys, tmp_path):
    options = {"admin_port": cjdroutes.free_port(), "admin_password": "x", "config_path": str(tmp_path / "none")}
    result = run(capsys, public_key=KEY, state="absent", unit="mesh.service", **options)
    assert "nothing listens there" in result["msg"]
    assert "journalctl --unit mesh.service" in result["msg"]


# ---------------------------------------------------------------- daemons that differ from the double


@pytest.fixture
def daemon():
    """A daemon with two links to KEY, both dialled without success."""
    daemon = cjdroutes.ScriptedDaemon()
    daemon.links = [f"192.0.2.{number}:1" for number in (1, 2)]
    daemon.answers = {}

    def script(request):
        function = (request["aq"] if request["q"] == b"auth" else request["q"]).decode()
        if function in daemon.answers:
            return daemon.answers[function](request)
        if function == "InterfaceController_peerStats":
            addr = f"v0.0000.0000.0000.{{:04x}}.{KEY}"
            peers = [{"addr": addr.format(place), "lladdr": link, "state": "INIT"} for place, link in enumerate(daemon.links)]
            return {"peers": peers, "total": len(peers)}
        return {"myAddr": "v22.0000.0000.0000.0001.u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"}

    daemon.script = script
    yield daemon
    daemon.close()


def at(daemon, tmp_path, **options):
    return {"admin_port": daemon.port, "admin_password": "x", "config_path": str(tmp_path / "none"), "public_key": KEY, **options}


def test_every_link_is_dropped_where_one_call_drops_one(capsys, daemon, tmp_path):
    daemon.answers["InterfaceController_disconnectPeer"] = lambda request: {"success": 1} if daemon.links.pop() else None
    result = run(capsys, **at(daemon, tmp_path, state="absent"))
    assert (result["changed"], result["link_state"], daemon.links) == (True, "", [])


def test_what_was_done_before_a_refusal_is_told(capsys, daemon, tmp_path):
    daemon.answers.update(
        InterfaceController_disconnectPeer=lambda request: {"success": 1},
        InterfaceController_interfaces=lambda request: {"ifaces": [{"ifNum": 0, "name": "UDP/IPv4/0.0.0.0:1"}]},
        UDPInterface_beginConnection=lambda request: {"error": "no more space to register with the switch."},
    )
    result = run(capsys, **at(daemon, tmp_path, address="192.0.2.3:1", password=SECRET))
    assert (result["failed"], result["changed"]) == (True, True)
    assert "the daemon refuses: no more space to register with the switch." in result["msg"]
    assert "Done before that: gave up dialling 192.0.2.1:1, 192.0.2.2:1" in result["msg"]


def test_a_daemon_too_old_to_tell_its_interfaces_is_told(capsys, daemon, tmp_path):
    daemon.answers["InterfaceController_interfaces"] = lambda request: {"error": "No functions matched your request, try ..."}
    result = run(capsys, **at(daemon, tmp_path, address="192.0.2.3:1", password=SECRET))
    assert (result["failed"], result["changed"]) == (True, False)
    assert "to dial a peer, cjdns 21.2 or later is needed" in result["msg"]
    assert "InterfaceController_disconnectPeer" not in daemon.functions()
