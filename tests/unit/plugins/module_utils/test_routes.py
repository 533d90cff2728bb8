# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import itertools
import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import registry, routes
from fake_mesh import ADDRESS, KEYS
from hypothesis import given
from hypothesis import strategies as st

WEB = {"host": "web.example.org", "path": "/", "service": "web", "port": 8080}


def record(name: str, *told: dict, state: str = "member") -> dict:
    return {
        "name": name,
        "public_key": KEYS[name],
        "address": ADDRESS[name],
        "overlay": "cjdns",
        "endpoints": [],
        "zones": [],
        "site": "",
        "server_eligible": True,
        "state": state,
        "version": 1,
        "updated": "2026-02-02T00:00:00Z",
        **({"routes": list(told)} if told else {}),
    }


def test_a_route_is_written_in_one_way_whatever_way_it_was_given():
    given_route = {
        "host": "WEB.example.org",
        "path": "/shop/",
        "service": "Web",
        "port": "8080",
        "retry": True,
        "near": False,
        "websocket": False,
        "canary": {},
    }
    assert routes.canonical(given_route) == {**WEB, "path": "/shop"}
    chosen = {**WEB, "retry": False, "websocket": True, "tag": "V2"}
    assert routes.canonical(chosen) == {**WEB, "retry": False, "websocket": True, "tag": "v2"}
    canary = {**WEB, "near": True, "canary": {"tag": "v2", "percent": 10}}
    assert routes.canonical(canary) == canary
    assert routes.are_told([routes.canonical(chosen), canary])


@pytest.mark.parametrize(
    "told",
    [
        None,
        {},
        "x",
        [WEB, "x"],
        [{**WEB, "host": "WEB.example.org"}],
        [{**WEB, "path": "/a/"}],
        [{**WEB, "path": "/a b"}],
        [{**WEB, "port": "8080"}],
        [{**WEB, "retry": True}],
        [{**WEB, "websocket": False}],
        [{**WEB, "websocket": "yes"}],
        [{**WEB, "service": "web'); system('id"}],
        [{"host": "", "path": "/", "upstream": "192.0.2.1", "port": 80}],
        [{**WEB, "canary": {"tag": "x", "percent": "10"}}],
        [{**WEB, "path": f"/{number:0200}"} for number in range(40)],
    ],
)
def test_a_record_with_other_routes_is_not_believed(told):
    assert not routes.are_told(told)
    assert "no valid routes" in registry.record_problem("n1", {**record("n1"), "routes": told})


def test_a_record_without_routes_is_as_good_as_one_with_them():
    assert registry.record_problem("n1", record("n1")) == ""
    assert registry.record_problem("n1", record("n1", WEB)) == ""


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_nonsense_is_no_route_and_never_a_crash(nonsense):
    for value in (nonsense, [nonsense], [{**WEB, "host": nonsense}], [{**WEB, "canary": nonsense}], [{**WEB, "near": nonsense}]):
        if routes.are_told(value):
            json.dumps(value)


def test_a_node_tells_of_the_routes_of_all_its_services_in_order():
    shop = {**WEB, "host": "shop.example.org", "service": "shop"}
    assert routes.told([{"route": WEB}, {}, {"mruby": True}, {"route": shop}, None]) == ([shop, WEB], [])
    assert routes.told([{"route": {**WEB, "upstream": "x"}}, {"route": "x"}]) == ([], [])


def test_a_node_with_too_many_routes_tells_of_what_a_record_can_hold_and_says_so():
    many = [{"route": {**WEB, "path": f"/{number:0200}"}} for number in range(60)]
    told, warnings = routes.told(many)
    assert routes.are_told(told) and 20 < len(told) < 60
    assert len(warnings) == 60 - len(told) and "the node has too many" in warnings[0]


def test_every_instance_of_a_service_claims_the_same_route_once():
    assert routes.united({"n1": record("n1", WEB), "n2": record("n2", WEB)}) == ([WEB], [])


def test_a_node_that_left_claims_nothing():
    assert routes.united({"n1": record("n1", WEB, state="left")}) == ([], [])


def test_of_two_services_at_one_place_the_first_by_name_counts_in_any_order_and_the_other_is_told():
    other = {**WEB, "service": "api", "port": 9}
    found = {"n1": record("n1", WEB), "n2": record("n2", other), "n3": record("n3", {**WEB, "path": "/x"})}
    answers = [routes.united(dict(order)) for order in itertools.permutations(found.items())]
    assert all(answer == answers[0] for answer in answers)
    united, warnings = answers[0]
    assert united == [other, {**WEB, "path": "/x"}]
    assert warnings == [
        "the route web.example.org/ is claimed by the service api (on n2) and, in another way, by web (on n1): the former counts. "
        "Change service_route of one of them"
    ]


def test_the_operators_routes_count_more_than_those_of_services():
    own = [{"host": "Web.example.org", "service": "other", "port": 1}]
    extra = {**WEB, "path": "/x"}
    assert routes.beside(own, [WEB, extra]) == [*own, extra]
    assert routes.beside([], [WEB]) == [WEB]
