# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Links and routes of the cjdroute double, on a simulated clock and wire."""

from __future__ import annotations

import random
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def state(core, other):
    return [peer.state for peer in core.peers if peer.public == other.public]


def line(sim, count):
    cores = [sim.node() for number in range(count)]
    for before, after in zip(cores, cores[1:]):
        sim.dial(after, before)
    return cores


def test_two_nodes_link_within_a_second(sim):
    one, two = line(sim, 2)
    assert sim.run(1, lambda: sim.established(one, two) and sim.established(two, one))
    assert sim.run(1, sim.converged)
    assert sim.send(one, two) and sim.send(two, one)


@pytest.mark.parametrize("password, login", [("wrong", None), ("wrong", "peer"), ("secret", "stranger")])
def test_a_wrong_password_or_login_is_never_established_on_either_side(sim, password, login):
    one, two = sim.node(), sim.node()
    sim.dial(one, two, password, login)
    assert sim.run(60, lambda: "ESTABLISHED" in state(one, two) + state(two, one)) is None
    assert state(one, two) == ["UNRESPONSIVE"] and state(two, one) == []
    assert one.peers[0].version == 0
    assert not one.routes and not two.routes


def test_the_right_login_opens_a_link(sim):
    one, two = sim.node(), sim.node()
    sim.dial(one, two, "secret", "peer")
    assert sim.run(1, lambda: sim.established(two, one))
    assert two.peers[0].user == "peer"


def test_a_password_for_one_address_is_refused_to_others(sim):
    one, two, listener = sim.node(), sim.node(), sim.node()
    listener.users.clear()
    sim.authorize(listener, "secret", ip=one.ip)
    sim.dial(one, listener)
    sim.dial(two, listener)
    sim.run(10)
    assert state(listener, one) == ["ESTABLISHED"] and state(listener, two) == []


def test_a_dialler_that_does_not_own_its_key_is_refused(sim, double):
    one, two, victim = sim.node(), sim.node(), sim.node()
    sim.kill(victim)
    one.public = victim.public
    sim.dial(one, two)
    sim.run(10)
    assert two.peers == []


def test_a_listener_that_does_not_own_the_expected_key_is_refused(sim):
    one, two, expected = sim.node(), sim.node(), sim.node()
    one.dial(one.iface, two.addr, expected.public, "secret", None, None)
    sim.run(10)
    assert one.peers[0].state == "SENT_HELLO" and not one.routes


def test_a_forged_answer_to_a_hello_opens_nothing(sim, double):
    one, two = sim.node(), sim.node()
    sim.kill(two)
    peer = sim.dial(one, two)
    answer = double.KEY_FORMAT.pack(double.KEY, peer.dialling[2], 1, 22, bytes(16))
    one.on_packet(one.iface, answer + bytes(double.HANDSHAKE_MAC), two.addr)
    assert peer.state == "SENT_HELLO" and not one.sessions


def test_states_follow_the_handshake(sim):
    one, two = sim.node(), sim.node()
    sim.cut_link(one, two)
    peer = sim.dial(one, two)
    assert peer.state == "SENT_HELLO"
    sim.run(20)
    assert peer.state == "SENT_HELLO"
    sim.run(1)
    assert peer.state == "UNRESPONSIVE"
    sim.cut.clear()
    assert sim.run(6, lambda: peer.state == "ESTABLISHED")


def test_an_incoming_hello_that_is_never_confirmed_is_forgotten(sim, double):
    one, two = sim.node(), sim.node()
    sim.keep = lambda source, target, packet: packet[0] == double.HELLO
    sim.dial(one, two)
    sim.deliver()
    assert state(two, one) == ["SENT_KEY"]
    sim.kill(one)
    sim.run(21)
    assert two.peers == []


def test_a_silent_peer_is_unresponsive_after_20_seconds_and_an_incoming_one_forgotten_after_262(sim):
    one, two = line(sim, 2)
    sim.run(1)
    sim.cut_link(one, two)
    sim.run(19)
    assert state(one, two) == state(two, one) == ["ESTABLISHED"]
    sim.run(6)
    assert state(one, two) == state(two, one) == ["UNRESPONSIVE"]
    sim.run(230)
    assert state(one, two) == ["UNRESPONSIVE"]
    sim.run(20)
    assert state(one, two) == [] and state(two, one) == ["UNRESPONSIVE"]


def test_an_idle_link_stays_up_and_costs_little(sim):
    one, two = line(sim, 2)
    sim.run(2)
    before = sim.taken
    assert sim.run(300, lambda: not sim.established(one, two) or not sim.established(two, one)) is None
    assert sim.taken - before <= 1.5 * 300


@pytest.mark.parametrize("who", ["dialler", "listener"])
@pytest.mark.parametrize("goodbye", [True, False], ids=["stopped", "killed"])
@pytest.mark.parametrize("away", [0, 4, 60])
def test_a_restarted_node_is_linked_again_within_ten_seconds(sim, who, goodbye, away):
    listener, dialler = line(sim, 2)
    sim.run(3)
    gone = listener if who == "listener" else dialler
    if goodbye:
        gone.close()
        sim.deliver()
    sim.kill(gone)
    sim.run(away)
    back = sim.restart(gone)
    if who == "dialler":
        dialler = back
        sim.dial(dialler, listener)
    else:
        listener = back
    assert sim.run(10, lambda: sim.established(dialler, listener) and sim.established(listener, dialler))
    assert sim.run(10, sim.converged) is not None
    assert sim.send(dialler, listener) and sim.send(listener, dialler)


def test_a_listener_that_lost_its_sessions_says_so_to_its_dialler(sim):
    listener, dialler = line(sim, 2)
    sim.run(0.5)
    listener = sim.restart(listener)
    assert sim.run(4.5, lambda: sim.established(listener, dialler)), "one silence of 3.07 s and a ping later"


def test_a_restarted_dialler_leaves_no_dead_peer_behind(sim):
    listener, dialler = sim.node(), sim.node()
    sim.dial(dialler, listener)
    dialler.link_count = 5
    sim.run(2)
    sim.move(dialler)
    dialler = sim.restart(dialler)
    dialler.link_count = 7  # the file lists its peers in another order now
    sim.dial(dialler, listener)
    assert sim.run(5, lambda: sim.established(dialler, listener))
    sim.run(1)
    assert sim.established(listener, dialler), "one entry, not two"


def test_a_link_closed_cleanly_is_gone_at_once(sim):
    one, two, three = line(sim, 3)
    sim.run(2)
    three.close()
    sim.kill(three)
    assert sim.run(0.5, lambda: three.ip not in one.routes)


def test_nodes_that_dial_each_other_have_one_peer_and_traffic(sim):
    one, two = sim.node(), sim.node()
    sim.dial(one, two)
    sim.dial(two, one)
    sim.run(30)
    assert sim.established(one, two) and sim.established(two, one)
    assert sim.send(one, two) and sim.send(two, one)
    back = sim.restart(one)
    sim.dial(back, two)
    assert sim.run(10, lambda: sim.established(back, two) and sim.established(two, back) and sim.converged())
    assert sim.send(back, two) and sim.send(two, back)


def test_a_dialler_whose_source_address_changes_keeps_its_link(sim, double):
    listener, dialler = line(sim, 2)
    sim.run(2)
    moved = sim.move(dialler)
    assert sim.run(7, lambda: listener.peers[0].addr == moved)
    sim.run(30)
    assert sim.established(listener, dialler) and len(listener.peers) == 1
    assert sim.send(listener, dialler) and sim.send(dialler, listener)


def test_strangers_cannot_inject_nor_replay_nor_reflect(sim):
    one, two = line(sim, 2)
    packets = []
    sim.keep = lambda source, target, packet: packets.append((source, target, packet)) or True
    sim.run(30)
    assert sim.send(one, two)
    before = one.peers[0].packets_in, two.peers[0].packets_in, two.peers[0].addr, one.peers[0].addr
    sim.keep = lambda source, target, packet: True
    for packet in [packet for source, target, packet in packets]:
        for forged in (packet, packet[:-1] + bytes([packet[-1] ^ 1]), packet[:20], packet + b"x"):
            for receiver in (one, two):
                receiver.on_packet(receiver.iface, forged, ("198.51.100.1", 1))
        sim.packets.clear()
    assert (one.peers[0].packets_in, two.peers[0].packets_in, two.peers[0].addr, one.peers[0].addr) == before
    assert two.peers[0].duplicates > 0
    sim.run(10)
    assert sim.established(one, two) and sim.established(two, one) and sim.send(one, two)


def test_a_stranger_who_knows_the_session_and_the_next_number_cannot_inject(sim, double):
    one, two = line(sim, 2)
    sim.run(1)
    session = two.peers[0].session
    before = two.peers[0].packets_in
    forged = double.HEADER.pack(double.SESSION, session.local_id, session.rx_seq + 1) + bytes(double.MAC) + bytes([double.BYE])
    two.on_packet(two.iface, forged, one.addr)
    assert two.peers[0].packets_in == before and sim.established(two, one)


def test_packets_out_of_order_are_taken_once(sim, double):
    one, two = line(sim, 2)
    sim.run(1)
    session = one.peers[0].session
    receiver = two.sessions[session.remote_id]
    packets = [session.pack(b"\x07" + bytes([n])) for n in range(40)]
    seqs = [double.HEADER.unpack_from(packet)[2] for packet in packets]
    order = list(range(40))
    random.Random(7).shuffle(order)
    assert all(receiver.unpack(packets[n], seqs[n]) == b"\x07" + bytes([n]) for n in order)
    assert all(receiver.unpack(packets[n], seqs[n]) is None for n in order)
    assert receiver.peer.lost == 0 and receiver.peer.duplicates == 40


def test_ten_hops_carry_packets(sim, double):
    cores = line(sim, 11)
    assert sim.run(5, sim.converged) < 2
    assert sim.send(cores[0], cores[10]) and sim.send(cores[10], cores[0])
    found = []
    cores[0].probe(double.label_of(cores[0].slots_to(cores[10].ip)), 2, b"data", lambda *reply: found.append(reply))
    sim.run(1)
    assert found[0][0] == cores[10].public and found[0][2] == b"data"


def test_a_killed_node_is_routed_around_within_twenty_seconds(sim):
    ring = line(sim, 5)
    sim.dial(ring[0], ring[4])
    sim.run(3)
    assert sim.send(ring[0], ring[2])
    dead = next(core for core in ring if core.public == ring[0].routes[ring[2].ip].public)
    sim.kill(dead)
    took = sim.run(25, sim.converged)
    assert 5 < took < 20, took
    assert sim.send(ring[0], ring[2])


def test_a_link_that_carries_only_one_way_is_not_used(sim):
    ring = line(sim, 4)
    sim.dial(ring[0], ring[3])
    sim.run(3)
    sim.cut.add((ring[1].addr, ring[0].addr))
    sim.run(15)
    assert ring[1].neighbours.get(ring[0].ip), "it still hears the other side"
    assert sim.send(ring[1], ring[0]) and sim.send(ring[0], ring[1])


def test_a_partition_heals(sim):
    cores = line(sim, 6)
    sim.run(3)
    sim.cut_link(cores[2], cores[3])
    sim.run(400)
    assert set(cores[0].routes) == {cores[1].ip, cores[2].ip}
    assert set(cores[0].links) == {core.ip for core in cores[:3]}, "what is long gone is forgotten"
    sim.cut.clear()
    assert sim.run(12, sim.converged)
    assert sim.send(cores[0], cores[5])


def test_a_node_back_with_its_clock_behind_is_believed(sim, double):
    one, two, three = line(sim, 3)
    sim.run(3)
    clock = double.time.time
    double.time.time = lambda: clock() - 86400
    three = sim.restart(three)
    sim.dial(three, one)
    assert sim.run(10, sim.converged)
    assert sim.send(one, three)


def test_a_lossy_wire_still_converges(sim):
    dice = random.Random(1)
    sim.keep = lambda *_: dice.random() > 0.2
    cores = line(sim, 8)
    sim.dial(cores[0], cores[7])
    assert sim.run(30, sim.converged)


def test_our_own_stall_does_not_take_links_down(sim):
    one, two = line(sim, 2)
    sim.run(2)
    told = one.links[one.ip]
    sim.now += 30
    sim.run(1)
    assert sim.established(one, two) and one.routes and two.routes
    assert one.links[one.ip] == told, "nor were the others told so in between"


def test_only_what_belongs_into_the_mesh_leaves_a_tun(sim, double, monkeypatch):
    one, two = line(sim, 2)
    sim.run(2)
    good = b"\x60" + bytes(7) + one.ip + two.ip + b"data"
    bad = [
        b"",
        b"\x60",
        good[:39],
        b"\x45" + good[1:],
        good[:8] + two.ip + good[24:],
        good[:24] + one.ip + good[40:],
        good[:24] + b"\xfc" + bytes(15) + good[40:],
        good[:24] + b"\xff\x02" + bytes(13) + b"\x02" + good[40:],
    ]
    waiting = bad + [good]

    def read(_fd, _size):
        if not waiting:
            raise BlockingIOError
        return waiting.pop(0)

    monkeypatch.setattr(double.os, "read", read)
    one.tun, sim.packets = types.SimpleNamespace(fd=-1), []
    one.read_tun()
    assert [packet[-len(good) :] for source, target, packet in sim.packets] == [good]
    one.tun = None


def test_packets_do_not_circle_for_ever(sim, double):
    one, two = line(sim, 2)
    sim.run(2)
    ghost = bytes([0xFC]) + bytes(15)
    one.routes[ghost], two.routes[ghost] = one.peers[0], two.peers[0]
    before = sim.taken
    one.peers[0].send(bytes((double.DATA, double.MAX_HOPS)) + b"\x60" + bytes(7) + one.ip + ghost)
    sim.deliver()
    assert sim.taken - before == double.MAX_HOPS


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), count=st.integers(3, 25))
def test_any_connected_mesh_converges_and_survives_a_death(sim, keys, seed, count):
    dice = random.Random(seed)
    for core in list(sim.cores):
        sim.kill(core)
    sim.packets.clear()
    cores = [sim.node(keys[n]) for n in range(count)]
    for number in range(1, count):
        for other in dice.sample(range(number), min(number, 2)):
            sim.dial(cores[number], cores[other])
    assert sim.run(10, sim.converged) is not None
    one, two = dice.sample(cores, 2)
    assert sim.send(one, two)
    dead = cores[-1]  # nobody hangs on it alone
    sim.kill(dead)
    assert sim.run(20, sim.converged) is not None
    one, two = dice.sample(cores[:-1], 2)
    assert sim.send(one, two)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_run_of_mishaps_is_overcome(sim, keys, seed):
    """Restarts, goodbyes, cut wires and lost packets in any order: once they end, everybody reaches everybody."""
    dice, count = random.Random(seed), 8
    for core in list(sim.cores):
        sim.kill(core)
    sim.packets.clear()
    cores = [sim.node(keys[n]) for n in range(count)]
    dials = {(n, n - 1) for n in range(1, count)} | {tuple(dice.sample(range(count - 1), 2)) for pair in range(4)}

    def dial_all(number):
        for one, two in dials:
            if one == number:
                sim.dial(cores[one], cores[two])

    for number in range(count):
        dial_all(number)
    sim.keep = lambda *_: dice.random() > 0.05
    for _mishap in range(12):
        what, number = dice.choice(["stop", "kill", "cut", "heal", "reset", "move"]), dice.randrange(count)
        core = cores[number]
        if what in ("stop", "kill"):
            if what == "stop":
                core.close()
                sim.deliver()
            sim.kill(core)
            sim.run(dice.choice([0, 1, 5, 30]))
            cores[number] = sim.restart(core)
            dial_all(number)
        elif what == "cut":
            sim.cut_link(core, cores[number - 1])
        elif what == "heal":
            sim.cut.clear()
        elif what == "reset":
            for peer in list(core.peers):
                core.restart_peer(peer)
        else:
            sim.move(cores[-1])  # which nobody dials
        sim.run(dice.choice([0.1, 1, 12, 25]))
    sim.cut.clear()
    sim.keep = lambda *_: True
    sim.run(15)
    assert all(sim.send(one, two) for one in cores for two in cores if one is not two)
    for core in cores:
        assert len(core.sessions) <= 8 * len(core.peers), "sessions do not pile up"
        assert len(core.dialling) <= len(core.peers)


@pytest.fixture(scope="module")
def keys(double):
    return [double.generate_key() for number in range(25)]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), kind=st.integers(0, 8), inside=st.booleans())
def test_no_datagram_crashes_a_node(sim, keys, data, kind, inside):
    if not sim.cores:
        sim.dial(sim.node(keys[0]), sim.node(keys[1]))
        sim.run(1)
    one, two = sim.cores
    if inside and kind != 3:  # also what only a peer can send; a goodbye (3) would end the link
        one.peers[0].send(bytes([kind]) + data)
        sim.deliver()
        sim.run(0.1)
    else:
        two.on_packet(two.iface, bytes([kind]) + data, ("192.0.2.1", 5))
        two.on_packet(two.iface, data, ("192.0.2.1", 5))
    assert sim.established(two, one)
