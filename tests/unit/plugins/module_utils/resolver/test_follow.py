# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What happens to a host after the hand-over."""

from __future__ import annotations

import os

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import handover, host
from houses import KINDS, NAMES, UPSTREAM, plain, resolved


def test_a_dhcp_client_that_rewrites_the_file_is_followed(house):
    plain(house)
    house.hand_over()
    house.servers = {"192.0.2.99": set(NAMES)}
    house.write(host.RESOLV_CONF, "search home\nnameserver 192.0.2.99\n")
    assert house.stored_resolver().follow()
    assert house.asks_dnsmasq()
    assert house.text(handover.UPSTREAM) == "nameserver 192.0.2.99\n"
    assert "search home\n" in house.text(host.RESOLV_CONF)
    assert house.host_resolves(NAMES) == set(NAMES)
    house.stored_resolver().release()
    assert house.text(host.RESOLV_CONF) == "search home\nnameserver 192.0.2.99\n"


def test_the_first_original_is_kept_for_good(house):
    plain(house)
    first = house.text(host.RESOLV_CONF)
    house.hand_over()
    house.write(host.RESOLV_CONF, f"nameserver {UPSTREAM}\n")
    house.stored_resolver().follow()
    assert house.text(handover.ORIGINAL) == first


def test_our_own_file_is_never_saved_as_the_hosts(house):
    plain(house)
    first = house.text(host.RESOLV_CONF)
    house.hand_over()
    house.hand_over(addresses=["127.0.0.2"])
    assert house.text(host.HOST_COPY) == first
    assert host.nameservers(house.text(host.RESOLV_CONF)) == ["127.0.0.2"]


def test_a_file_that_somebody_edited_is_the_hosts_again(house):
    plain(house)
    house.hand_over()
    edited = house.text(host.RESOLV_CONF).replace("127.0.0.1", UPSTREAM)
    house.write(host.RESOLV_CONF, edited)
    assert not house.stored_resolver().ours()
    house.stored_resolver().give_back()
    assert house.text(host.RESOLV_CONF) == edited


def test_while_dnsmasq_is_down_the_host_has_its_own_resolver(house):
    plain(house)
    first = house.text(host.RESOLV_CONF)
    house.hand_over()
    house.dnsmasq_runs = False
    house.stored_resolver().release()
    assert house.text(host.RESOLV_CONF) == first
    assert house.host_resolves(NAMES) == set(NAMES)
    house.dnsmasq_runs = True
    house.stored_resolver().follow()
    assert house.asks_dnsmasq()


def test_what_was_proven_is_not_proven_again_at_boot(house, monkeypatch):
    plain(house)
    house.hand_over()
    house.stored_resolver().release()
    monkeypatch.setattr(house, "host_resolves", lambda names: pytest.fail("a lookup at boot waits for the network"))
    house.stored_resolver().follow()
    assert house.asks_dnsmasq()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not resolved], ids=lambda kind: kind.__name__)
def test_a_new_configuration_that_loses_names_is_not_followed(kind, house):
    kind(house)
    house.hand_over()
    house.stored_resolver().release()
    house.write(handover.CONFIG, "another configuration\n")
    house.dnsmasq_loses = set(NAMES)
    with pytest.raises(host.ResolverError, match="example"):
        house.stored_resolver().follow()
    assert not house.asks_dnsmasq()
    assert house.host_resolves(NAMES) == set(NAMES)
    assert house.stored_resolver().settings["managed"], "it is tried again when dnsmasq starts next"


def test_a_new_configuration_that_loses_names_is_taken_from_resolved(house):
    resolved(house)
    house.write("/etc/systemd/resolved.conf", f"[Resolve]\nDNS={UPSTREAM}\n")
    house.resolved_dns = []
    house.start_resolved = lambda: house.write(
        host.RESOLVED_UPLINKS, f"nameserver {'127.0.0.1' if house.exists(host.RESOLVED_DROPIN) else UPSTREAM}\n"
    )
    house.start_resolved()
    house.hand_over()
    house.write(handover.CONFIG, "another configuration\n")
    house.dnsmasq_loses = set(NAMES)
    assert house.host_resolves(NAMES) == set()
    with pytest.raises(host.ResolverError, match="example"):
        house.stored_resolver().follow()
    assert house.host_resolves(NAMES) == set(NAMES)


def test_a_host_whose_keeper_changed_waits_for_the_role(house):
    plain(house)
    house.hand_over()
    os.unlink(house.root / "etc/resolv.conf")
    resolved(house)
    with pytest.raises(host.ResolverError, match="kept by resolved"):
        house.stored_resolver().follow()
    assert not house.exists(host.RESOLVED_DROPIN)
    house.hand_over()
    assert house.asks_dnsmasq()


def test_a_host_that_was_never_handed_over_is_only_learnt_from(house):
    plain(house)
    before = house.snapshot()
    assert house.stored_resolver().follow()
    assert house.snapshot() == before
    assert house.text(handover.UPSTREAM) == f"nameserver {UPSTREAM}\n"
