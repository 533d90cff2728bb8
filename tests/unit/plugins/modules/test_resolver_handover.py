# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module, on hosts that are directories."""

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import ports
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import handover, host, writing
from ansible_collections.vdloo.mesh.plugins.modules import resolver_handover
from houses import KINDS, NAMES, UPSTREAM, House, plain


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def any_house(request, house):
    request.param(house)
    return house


class Module:
    def __init__(self, check_mode=False, **params):
        self.params = {"state": "present", "managed": True, "names_unit": "mesh-names.service", "names_listen": "", **params}
        self.check_mode = check_mode


def test_check_mode_tells_and_touches_nothing(any_house):
    before = any_house.snapshot()
    result = resolver_handover.run(Module(check_mode=True), any_house.resolver())
    assert result["changed"] and not result["handed_over"]
    assert "127.0.0.1" in result["diff"]["after"] and "127.0.0.1\n" not in result["diff"]["before"]
    assert any_house.snapshot() == before
    any_house.hand_over()
    result = resolver_handover.run(Module(check_mode=True), any_house.resolver())
    assert not result["changed"] and result["handed_over"]


def test_the_module_hands_over_and_gives_back(any_house):
    before = any_house.snapshot()
    result = resolver_handover.run(Module(), any_house.resolver())
    assert result["changed"] and result["handed_over"] and result["resolves"] == sorted(NAMES)
    assert not resolver_handover.run(Module(), any_house.resolver())["changed"]
    result = resolver_handover.run(Module(managed=False), any_house.resolver(managed=False))
    assert result["changed"] and not result["handed_over"]
    assert any_house.snapshot() == before
    assert not resolver_handover.run(Module(managed=False), any_house.resolver(managed=False))["changed"]
    assert not resolver_handover.run(Module(state="absent"), any_house.stored_resolver())["changed"]


def test_a_host_that_is_not_managed_is_left_alone(any_house):
    before = any_house.snapshot()
    result = resolver_handover.run(Module(managed=False), any_house.resolver(managed=False))
    assert not result["handed_over"] and result["resolves"] == sorted(NAMES)
    assert any_house.snapshot() == before


def port_is_held(monkeypatch, name, unit, held=53):
    """Let one process hold a port of 127.0.0.1, and others hold what is in nobody's way."""
    taken = [ports.Listener("udp", "127.0.0.1", held, "11", 0), ports.Listener("tcp", "127.0.0.1", 853, "12", 0)]
    monkeypatch.setattr(ports, "is_free", lambda address, port: (address, port) != ("127.0.0.1", held))
    monkeypatch.setattr(ports, "listeners", lambda: taken)
    monkeypatch.setattr(ports, "holders", lambda inodes: [ports.Holder(7, name, unit, frozenset(inodes))] if inodes == {"11"} else [])


def test_a_held_port_is_refused_with_the_name_of_the_process(house, monkeypatch):
    plain(house)
    port_is_held(monkeypatch, "unbound", "unbound.service")
    with pytest.raises(host.ResolverError, match=r"port 53 of 127\.0\.0\.1 is held by unbound \(pid 7, unbound\.service\)"):
        resolver_handover.run(Module(state="examined"), house.resolver())
    port_is_held(monkeypatch, "unbound", "")
    with pytest.raises(host.ResolverError, match=r"port 53 of 127\.0\.0\.1 is held by unbound \(pid 7\): stop that"):
        resolver_handover.run(Module(state="examined"), house.resolver())


def test_a_port_that_is_held_from_outside_is_refused(house, monkeypatch):
    plain(house)
    monkeypatch.setattr(ports, "is_free", lambda _address, _port: False)
    monkeypatch.setattr(ports, "listeners", list)
    with pytest.raises(host.ResolverError, match=r"port 53 of ::1 is held by a process that cannot be seen from here"):
        resolver_handover.run(Module(state="examined"), house.resolver())


def test_our_own_dnsmasq_may_hold_the_port(house, monkeypatch):
    plain(house)
    house.units.add("dnsmasq-mesh.service")
    port_is_held(monkeypatch, "dnsmasq", "dnsmasq-mesh.service")
    assert resolver_handover.run(Module(state="examined"), house.resolver())["nameservers"] == [UPSTREAM]


def test_the_port_of_mesh_names_is_refused_to_all_but_mesh_names(house, monkeypatch):
    plain(house)
    asked = Module(state="examined", names_listen="127.0.0.1#8653")
    port_is_held(monkeypatch, "squatter", "other.service", 8653)
    with pytest.raises(
        host.ResolverError, match=r"port 8653 of 127\.0\.0\.1 is held by squatter \(pid 7, other\.service\): .*dnsmasq_names_port"
    ):
        resolver_handover.run(asked, house.resolver())
    port_is_held(monkeypatch, "python3", "mesh-names.service", 8653)
    house.units.add("mesh-names.service")
    assert resolver_handover.run(asked, house.resolver())["names_active"]


@pytest.mark.parametrize(("rcode", "answers"), [(0, True), (3, True), (2, False), (5, False), (None, False)])
def test_a_refusal_by_what_is_in_front_of_consul_is_no_answer_of_consul(house, monkeypatch, rcode, answers):
    monkeypatch.setattr(house, "ask", lambda *_args, **_kwargs: None if rcode is None else (rcode, 0))
    assert resolver_handover.consul_answers(house.resolver()) is answers


def test_an_immutable_file_is_refused_only_if_it_would_be_changed(house, monkeypatch):
    plain(house)
    monkeypatch.setattr(ports, "is_free", lambda _address, _port: True)
    monkeypatch.setattr(writing, "immutable", lambda path: True)
    with pytest.raises(host.ResolverError, match="is immutable.*dnsmasq_resolver_managed"):
        resolver_handover.run(Module(state="examined"), house.resolver())
    assert not resolver_handover.run(Module(state="examined", managed=False), house.resolver(managed=False))["changed"]


def test_a_bad_configuration_makes_room_for_the_former_one(house, monkeypatch):
    plain(house)
    house.hand_over()
    house.stored_resolver().release()
    house.write(handover.CONFIG, "a bad configuration\n")
    house.dnsmasq_loses = set(NAMES)
    run = house.run

    def restart(*argv):
        if argv[:2] == ("systemctl", "restart"):
            assert house.text(handover.CONFIG) == "a configuration\n"
            house.dnsmasq_loses = set()
            house.stored_resolver().follow()
        return run(*argv)

    monkeypatch.setattr(house, "run", restart)
    with pytest.raises(host.ResolverError, match="the former configuration of dnsmasq is back and serves"):
        resolver_handover.run(Module(), house.resolver())
    assert house.asks_dnsmasq()
    assert house.host_resolves(NAMES) == set(NAMES)
