# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The daemons of a node are stopped, started in any order, and killed, and all is well again. Each test leaves the mesh whole."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator

import pytest
from helpers import NODES, all_fresh, ordinary_name, whole
from mesh import DAEMONS, lost

# The same number makes the same orders. It is in the names of the tests.
SEED = int(os.environ.get("VDLOO_MESH_SEED") or random.randrange(10_000))
CHANCE = random.Random(SEED)
# What resolv.conf is, and what is in it.
RESOLVER = "stat -c '%F %a %U' /etc/resolv.conf && cat /etc/resolv.conf"


def any_order() -> tuple[str, ...]:
    return tuple(CHANCE.sample(DAEMONS, len(DAEMONS)))


REVERSE = DAEMONS[::-1]
# The first takes all nodes down at once.
ORDERS = [
    {name: any_order() for name in NODES},
    dict.fromkeys(NODES, REVERSE),
    {"n3": REVERSE},
    *({"n3": any_order()} for _number in range(4)),
]


def healthy(mesh) -> bool:
    states = (mesh.node(name).run("systemctl is-active " + " ".join(DAEMONS)).stdout.split() for name in NODES)
    return all(found == ["active"] * len(DAEMONS) for found in states) and whole(mesh) and all_fresh(mesh)


class Lookup:
    """A look at the resolver of a node: when, the servers in resolv.conf, and whether an ordinary name was found."""

    def __init__(self, line: str) -> None:
        time, servers, found = line.split("|")
        self.time, self.servers, self.found = float(time), servers.split(), bool(found)

    def __repr__(self) -> str:
        return f"{self.time:.2f} {self.servers} {'found' if self.found else 'LOST'}"


@contextlib.contextmanager
def ordinary_lookups(mesh, name: str) -> Iterator[list[Lookup]]:
    """Look an ordinary name up all the time. The list is filled in the end."""
    servers = "$(sed -n 's/^nameserver //p' /etc/resolv.conf)"
    address = f"$(timeout 4 getent ahostsv4 {ordinary_name(mesh, name)} | head -n 1)"
    looks: list[Lookup] = []
    with mesh.repeated(name, f'echo "$(date +%s.%N)|{servers}|{address}"', pause=0.05) as lines:
        yield looks
    looks += map(Lookup, lines)


def start_in_these_orders(mesh, orders: dict[str, tuple[str, ...]]) -> None:
    """Stop the daemons of these nodes, and start them one after another, each node in its own order."""
    with contextlib.ExitStack() as stack:
        looks = {name: stack.enter_context(ordinary_lookups(mesh, name)) for name in orders}
        # All at once first: an agent that is left alone takes its time to stop.
        for command in ("systemctl stop --no-block", "systemctl stop"):
            for name in orders:
                mesh.node(name).check_output(f"{command} {' '.join(DAEMONS)}")
        for step in zip(*orders.values()):
            for name, daemon in zip(orders, step):
                # Consul waits for its address: nobody is to wait for Consul.
                mesh.node(name).check_output("systemctl start --no-block %s", daemon)
            time.sleep(1)
        mesh.wait_for(lambda: healthy(mesh), f"all is well after {orders}")
    for name, found in looks.items():
        assert [look for look in found if not look.found] == [], (name, orders)


@pytest.mark.parametrize(
    "orders",
    [pytest.param(orders, marks=[pytest.mark.slow] * (orders is not ORDERS[0])) for orders in ORDERS],
    ids=lambda orders: "-".join((f"seed-{SEED}", *orders)),
)
def test_daemons_that_start_in_any_order_end_in_a_healthy_mesh(mesh, orders):
    start_in_these_orders(mesh, orders)


def test_a_killed_dnsmasq_is_back_soon_and_nobody_misses_a_name_meanwhile(mesh):
    node = mesh.node("n2")
    before, killed = node.check_output(RESOLVER), node.check_output("systemctl show -P MainPID dnsmasq-mesh")
    with ordinary_lookups(mesh, "n2") as looks, mesh.requests("n2") as answers:
        node.check_output("kill -9 %s", killed)
        mesh.wait_for(lambda: node.check_output("systemctl show -P MainPID dnsmasq-mesh") not in (killed, "0"), "dnsmasq is back", 10)
        mesh.wait_for(lambda: node.check_output(RESOLVER) == before, "the host asks dnsmasq again", 10)
    assert len(looks) > 5 and [look for look in looks if not look.found] == []
    # The host is not pointed elsewhere: its second server stands in.
    assert {tuple(look.servers) for look in looks} == {("127.0.0.1", "127.0.0.2")}, looks
    assert len(answers) > 5 and lost(answers) == []
