# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host that has a second server, which stands in for dnsmasq while that is down."""

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import handover, host
from houses import NAMES, SPARE, UPSTREAM, plain, resolved


@pytest.fixture
def with_spare(any_house):
    any_house.hand_over(spare=SPARE)
    return any_house


def test_the_host_asks_both(with_spare):
    assert with_spare.stored_resolver().handed_over()
    places = host.RESOLVED_UPLINKS if with_spare.exists(host.RESOLVED_DROPIN) else host.RESOLV_CONF
    assert host.nameservers(with_spare.text(places))[:2] == ["127.0.0.1", SPARE]


def test_a_second_run_changes_nothing(with_spare):
    before = with_spare.snapshot()
    assert not with_spare.hand_over(spare=SPARE)
    assert with_spare.snapshot() == before


def test_a_host_that_was_handed_over_before_learns_of_it_and_forgets_it_again(any_house):
    any_house.hand_over()
    assert any_house.hand_over(spare=SPARE)
    assert any_house.stored_resolver().handed_over()
    assert any_house.hand_over(spare="")
    assert any_house.stored_resolver().handed_over()
    assert SPARE not in any_house.text(host.RESOLV_CONF) + any_house.text(host.RESOLVED_DROPIN)


def test_a_host_gets_back_exactly_what_it_had(any_house):
    before = any_house.snapshot()
    any_house.hand_over(spare=SPARE)
    assert any_house.stored_resolver().give_back()
    assert any_house.snapshot() == before


def test_a_dnsmasq_that_goes_leaves_the_host_as_it_is(with_spare):
    before = with_spare.snapshot()
    with_spare.dnsmasq_runs = False
    assert not with_spare.stored_resolver().dnsmasq_stops()
    assert with_spare.snapshot() == before
    assert with_spare.host_resolves(NAMES) == set(NAMES)


@pytest.mark.parametrize("last", ["dnsmasq_stops", "spare_stops"])
def test_when_both_are_gone_the_host_has_its_own_resolver(house, last):
    plain(house)
    first = house.text(host.RESOLV_CONF)
    house.hand_over(spare=SPARE)
    house.dnsmasq_runs = house.spare_runs = False
    assert getattr(house.stored_resolver(), last)()
    assert house.text(host.RESOLV_CONF) == first
    house.dnsmasq_runs = house.spare_runs = True
    assert house.stored_resolver().follow()
    assert host.nameservers(house.text(host.RESOLV_CONF)) == ["127.0.0.1", SPARE]


def test_a_spare_that_goes_leaves_the_host_as_it_is(with_spare):
    before = with_spare.snapshot()
    with_spare.spare_runs = False
    assert not with_spare.stored_resolver().spare_stops()
    assert with_spare.snapshot() == before


def test_dnsmasq_does_not_ask_who_stands_in_for_it(house):
    resolved(house)
    house.hand_over(spare=SPARE)
    house.write(host.RESOLV_CONF, f"nameserver {SPARE}\nnameserver {UPSTREAM}\n")
    house.stored_resolver().learn()
    assert SPARE not in house.text(handover.SERVERS)


def test_a_file_with_only_one_of_ours_is_ours_and_is_completed(house):
    plain(house)
    house.hand_over(spare=SPARE)
    house.write(host.RESOLV_CONF, house.text(host.RESOLV_CONF).replace(f"nameserver {SPARE}\n", ""))
    assert house.stored_resolver().ours()
    assert house.stored_resolver().follow()
    assert host.nameservers(house.text(host.RESOLV_CONF)) == ["127.0.0.1", SPARE]
