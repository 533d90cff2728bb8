# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import handover, host
from houses import KINDS, NAMES, UPSTREAM, House, Killed, mounted, network_manager, plain, resolvconf, resolved
from hypothesis import given
from hypothesis import strategies as st

# Every kind of host


def test_a_host_asks_dnsmasq_and_resolves_what_it_did(any_house):
    assert any_house.hand_over()
    assert any_house.asks_dnsmasq()
    assert any_house.host_resolves(NAMES) == set(NAMES)


def test_a_second_run_changes_nothing(any_house):
    any_house.hand_over()
    before, commands = any_house.snapshot(), list(any_house.commands)
    assert not any_house.hand_over()
    assert any_house.snapshot() == before
    assert any_house.commands == commands


def test_a_host_gets_back_exactly_what_it_had(any_house):
    before = any_house.snapshot()
    any_house.hand_over()
    resolver = any_house.stored_resolver()
    assert resolver.give_back()
    assert any_house.snapshot() == before
    assert not any_house.stored_resolver().give_back()


def test_names_that_dnsmasq_loses_leave_the_host_as_it_was(any_house):
    before = any_house.snapshot()
    any_house.dnsmasq_loses = {"example.com"}
    with pytest.raises(host.ResolverError, match="example.com"):
        any_house.hand_over()
    assert any_house.snapshot() == before
    assert not any_house.exists(host.SETTINGS)
    assert any_house.host_resolves(NAMES) == set(NAMES)


def test_names_that_are_lost_by_the_switch_alone_leave_the_host_as_it_was(any_house, monkeypatch):
    before = any_house.snapshot()
    honest = any_house.host_resolves
    monkeypatch.setattr(any_house, "host_resolves", lambda names, timeout=8: set() if any_house.asks_dnsmasq() else honest(names))
    with pytest.raises(host.ResolverError, match="put back"):
        any_house.hand_over()
    assert any_house.snapshot() == before
    assert honest(NAMES) == set(NAMES)


def test_a_dnsmasq_that_does_not_answer_is_not_asked(any_house, monkeypatch):
    before = any_house.snapshot()
    any_house.dnsmasq_runs = False
    clock = iter(range(100))
    monkeypatch.setattr(handover.time, "monotonic", lambda: next(clock))
    with pytest.raises(host.ResolverError, match="does not answer on 127.0.0.1"):
        any_house.hand_over()
    assert any_house.snapshot() == before


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_kill_at_any_step_leaves_names_and_the_next_run_converges(kind, tmp_path, monkeypatch):
    def counted(method):
        def act(self, *args, **kwargs):
            self.outside.step()
            return method(self, *args, **kwargs)

        return act

    for name in ("write", "link", "remove"):
        monkeypatch.setattr(handover.Handover, name, counted(getattr(handover.Handover, name)))
    for step in range(40):
        root = tmp_path / str(step)
        root.mkdir()
        house = House(root)
        kind(house)
        before = house.snapshot()
        house.steps_left = step
        try:
            house.hand_over()
        except Killed:
            done = False
        else:
            done = True
        house.steps_left = None
        assert house.host_resolves(NAMES) == set(NAMES), f"no names after step {step}"
        house.hand_over()
        assert house.asks_dnsmasq()
        assert house.host_resolves(NAMES) == set(NAMES)
        assert not house.hand_over()
        house.stored_resolver().give_back()
        assert house.snapshot() == before
        if done:
            break
    assert done and step > 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_kill_while_it_is_put_back_leaves_names(kind, tmp_path, monkeypatch):
    def counted(method):
        def act(self, *args, **kwargs):
            self.outside.step()
            return method(self, *args, **kwargs)

        return act

    for name in ("write", "link", "remove"):
        monkeypatch.setattr(handover.Handover, name, counted(getattr(handover.Handover, name)))
    for step in range(20):
        root = tmp_path / str(step)
        root.mkdir()
        house = House(root)
        kind(house)
        before = house.snapshot()
        house.hand_over()
        house.steps_left = step
        try:
            house.stored_resolver().give_back()
        except Killed:
            done = False
        else:
            done = True
        house.steps_left = None
        assert house.host_resolves(NAMES) == set(NAMES), f"no names after step {step}"
        house.stored_resolver().give_back()
        if kind is not resolved:
            assert house.snapshot() == before
        if done:
            break
    assert done and step > 0


def test_a_host_that_resolved_nothing_is_handed_over_on_the_word_of_dnsmasq(any_house):
    any_house.servers = {server: set() for server in any_house.servers}
    assert any_house.hand_over()
    assert any_house.asks_dnsmasq()
    assert any_house.resolver().check() == []


def test_only_names_that_resolved_before_have_to_resolve_after(any_house):
    any_house.servers = {server: {"example.org"} for server in any_house.servers}
    any_house.hand_over()
    assert any_house.resolver().check() == ["example.org"]


# Kinds of hosts, one by one


def test_all_but_the_name_servers_is_kept(house):
    plain(house)
    house.hand_over()
    assert house.text(host.RESOLV_CONF) == (
        f"# mine\nsearch lan\n{host.MARK}\nnameserver 127.0.0.1\noptions ndots:2\noptions timeout:1 attempts:2\n"
    )
    assert os.stat(house.root / "etc/resolv.conf").st_mode & 0o777 == 0o664
    assert house.text(handover.UPSTREAM) == f"nameserver {UPSTREAM}\n"


def test_a_mounted_file_is_written_in_place(house):
    mounted(house)
    inode = os.stat(house.root / "etc/resolv.conf").st_ino
    house.hand_over()
    assert os.stat(house.root / "etc/resolv.conf").st_ino == inode
    house.stored_resolver().give_back()
    assert os.stat(house.root / "etc/resolv.conf").st_ino == inode


def test_the_loopback_server_of_a_container_engine_is_asked(house):
    mounted(house)
    house.hand_over()
    assert house.text(handover.UPSTREAM) == "nameserver 127.0.0.11\n"


def test_dnsmasq_is_never_told_to_ask_itself(house):
    house.write(host.RESOLV_CONF, f"nameserver 127.0.0.1\nnameserver ::1\nnameserver {UPSTREAM}\n")
    house.hand_over()
    house.hand_over()
    assert house.text(handover.UPSTREAM) == f"nameserver {UPSTREAM}\n"


def test_scope_ids_are_kept(house):
    house.write(host.RESOLV_CONF, "nameserver fe80::1%eth0\nnameserver 2001:db8::53\n")
    house.resolver().learn()
    assert house.text(handover.UPSTREAM) == "nameserver fe80::1%eth0\nnameserver 2001:db8::53\n"


def test_dnsmasq_reads_the_live_file_of_resolvconf(house):
    resolvconf(house)
    house.hand_over()
    assert os.readlink(house.root / handover.UPSTREAM.lstrip("/")) == host.RESOLVCONF_UPLINKS
    house.write(host.RESOLVCONF_UPLINKS, f"nameserver {UPSTREAM}\nsearch other\n")
    house.stored_resolver().follow()
    assert "search other\n" in house.text(host.RESOLV_CONF)
    assert house.asks_dnsmasq()


def test_network_manager_is_told_to_leave_the_file_alone(house):
    network_manager(house)
    house.hand_over()
    assert "rc-manager=unmanaged" in house.text(host.NM_DROPIN)
    assert ("systemctl", "reload", "NetworkManager.service") in house.commands
    assert os.readlink(house.root / handover.UPSTREAM.lstrip("/")) == host.NM_UPLINKS
    assert house.text(host.RESOLV_CONF).startswith("# Generated by NetworkManager\n")


def test_resolved_keeps_the_host_and_routes_consul(house):
    resolved(house)
    house.hand_over()
    assert os.readlink(house.root / "etc/resolv.conf") == "../run/systemd/resolve/stub-resolv.conf"
    assert house.text(host.RESOLVED_DROPIN).splitlines()[1:] == ["[Resolve]", "DNS=127.0.0.1", "Domains=~consul ~c.f.ip6.arpa"]
    assert os.readlink(house.root / handover.UPSTREAM.lstrip("/")) == host.RESOLVED_UPLINKS
    assert house.text(handover.SERVERS) == ""


def test_servers_from_resolveds_own_configuration_are_asked_by_dnsmasq(house):
    resolved(house)
    house.write("/etc/systemd/resolved.conf", f"[Resolve]\n#DNS=9.9.9.9\nDNS=192.0.2.99\nDNS=\nDNS={UPSTREAM} 2001:db8::53\n")
    house.resolved_dns = []
    house.units.add("dnsmasq-mesh.service")
    house.hand_over()
    assert house.text(handover.SERVERS) == f"server={UPSTREAM}\nserver=2001:db8::53\n"
    assert "DNS=\nDNS=127.0.0.1\n" in house.text(host.RESOLVED_DROPIN)
    assert ("systemctl", "kill", "--kill-who=main", "--signal=HUP", "dnsmasq-mesh.service") in house.commands


def test_a_host_without_the_file_gets_none_back(house):
    (house.root / "etc").mkdir(exist_ok=True)
    house.hand_over()
    assert house.asks_dnsmasq()
    house.stored_resolver().release()
    assert not house.exists(host.RESOLV_CONF)


# Text


@given(
    st.lists(
        st.sampled_from(
            [
                "# text",
                "",
                "search lan",
                "nameserver 192.0.2.1",
                "nameserver fe80::1%e0",
                "options ndots:1 timeout:9",
                "options rotate",
                "sortlist 10.0.0.0",
            ]
        )
    )
)
def test_a_rendered_file_renders_to_itself(lines):
    once = handover.render("\n".join(lines), ["127.0.0.1"], ["timeout:1", "attempts:2"])
    assert handover.render(once, ["127.0.0.1"], ["timeout:1", "attempts:2"]) == once
    assert host.nameservers(once) == ["127.0.0.1"]
    kept = [line for line in "\n".join(lines).splitlines() if not line.startswith("nameserver")]
    assert [line for line in once.splitlines() if line in lines] == kept


def test_an_option_that_the_host_sets_wins():
    assert "timeout:1" not in handover.render("options timeout:5\nnameserver 192.0.2.1\n", ["127.0.0.1"], ["timeout:1"])


def test_search_domains_come_after_those_of_the_host_and_go_again():
    text = "domain lan\nsearch lan office\nnameserver 192.0.2.1\n"
    once = handover.render(text, ["127.0.0.1"], [], ["mesh", "lan"])
    assert [line for line in once.splitlines() if line.startswith("search")][-1] == "search lan office mesh"
    assert handover.render(once, ["127.0.0.1"], [], ["mesh", "lan"]) == once
    assert "search" not in handover.render("nameserver 192.0.2.1\n", ["127.0.0.1"], [], [])
    assert "search lan mesh\n" in handover.render("domain lan\n", ["127.0.0.1"], [], ["mesh"])


def test_search_domains_are_taken_away_when_nobody_asks_for_them_any_more(house):
    plain(house)
    house.hand_over(search=["mesh"])
    assert "mesh" in house.text(host.RESOLV_CONF)
    house.hand_over(search=[])
    assert "mesh" not in house.text(host.RESOLV_CONF).replace("vdloo.mesh", "")


def test_resolved_is_told_the_search_domains(house):
    resolved(house)
    house.hand_over(search=["mesh"])
    assert "Domains=~consul ~c.f.ip6.arpa mesh\n" in house.text(host.RESOLVED_DROPIN)
