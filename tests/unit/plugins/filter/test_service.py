# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.filter import service
from ansible_collections.vdloo.mesh.plugins.module_utils import routes
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import services
from hypothesis import given
from hypothesis import strategies as st

WEB = {
    "name": "web",
    "state": "present",
    "port": 8080,
    "address": "",
    "tags": [],
    "check": {"tcp": True},
    "version": "",
    "site": "",
    "meta": {},
    "route": {},
}


def defined(**changes) -> dict:
    return service.definition({**WEB, **changes})["service"]


def only_error(**changes) -> str:
    errors = service.errors_of({**WEB, **changes})
    assert len(errors) == 1, errors
    with pytest.raises(AnsibleFilterError):
        defined(**changes)
    return errors[0]


def test_a_service_is_its_name_its_port_and_a_check_that_dials_it():
    found = defined()
    assert len(found["meta"].pop(services.MARK)) == 16
    assert found == {
        "id": "web",
        "name": "web",
        "port": 8080,
        "tags": [],
        "meta": {},
        "check": {"tcp": "127.0.0.1:8080", "interval": "2s", "timeout": "2s"},
    }


def test_version_and_site_are_told_and_are_names_that_dns_can_find():
    found = defined(version="2.1", site="Home, cellar", tags=["v2"], meta={"team": "blue"})
    assert found["tags"] == ["site-home-cellar", "v-2-1", "v2"]
    assert {**found["meta"], services.MARK: ""} == {"version": "2.1", "site": "Home, cellar", "team": "blue", services.MARK: ""}


def test_a_site_of_which_nothing_can_stand_in_a_name_is_told_all_the_same():
    found = defined(site="我家")
    assert found["tags"] == []
    assert found["meta"]["site"] == "我家"


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ({"http": "/health"}, {"http": "http://127.0.0.1:8080/health", "method": "GET", "interval": "2s", "timeout": "2s"}),
        (
            {"http": "https://127.0.0.1:8081/h?x=1", "method": "HEAD", "interval": "1m30s", "timeout": "500ms"},
            {"http": "https://127.0.0.1:8081/h?x=1", "method": "HEAD", "interval": "1m30s", "timeout": "500ms"},
        ),
        ({"grpc": True}, {"grpc": "127.0.0.1:8080", "interval": "2s", "timeout": "2s"}),
        ({"grpc": "shop.v1.Cart"}, {"grpc": "127.0.0.1:8080/shop.v1.Cart", "interval": "2s", "timeout": "2s"}),
        ({"script": ["/bin/true", "-x"]}, {"args": ["/bin/true", "-x"], "interval": "2s", "timeout": "2s"}),
    ],
)
def test_each_kind_of_check_is_written_as_consul_wants_it(check, expected):
    assert defined(check=check)["check"] == expected


def test_no_check_has_to_be_said_in_so_many_words():
    assert "check" not in defined(check="none")
    assert "says no kind of check" in only_error(check={})
    assert "or none for a service that is not checked" in only_error(check=None)


@pytest.mark.parametrize(("address", "host"), [("10.0.0.7", "10.0.0.7"), ("fc00::7", "[fc00::7]")])
def test_a_program_with_an_address_of_its_own_is_checked_there(address, host):
    found = defined(address=address, check={"http": "/"})
    assert found["address"] == address
    assert found["check"]["http"] == f"http://{host}:8080/"


def test_the_mark_tells_any_two_definitions_apart_and_is_the_same_for_the_same():
    marks = [defined(**changes)["meta"][services.MARK] for changes in ({}, {"port": "8080"}, {"port": 8081}, {"check": {"http": "/"}})]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "my_web"}, "service_name 'my_web' is not a DNS label"),
        ({"name": "Web"}, "is not a DNS label"),
        ({"name": "web\n"}, "is not a DNS label"),
        ({"name": "../x"}, "is not a DNS label"),
        ({"name": "w" * 64}, "is not a DNS label"),
        ({"name": 7}, "service_name 7 is not a DNS label"),
        ({"name": "consul"}, "service_name consul is the name of Consul itself: choose another one"),
        ({"port": 0}, "service_port 0 is not between 1 and 65535: give the port that the program listens on"),
        ({"port": 65536}, "service_port 65536 is not between 1 and 65535"),
        ({"port": "http"}, "service_port 'http' is not between"),
        ({"port": True}, "service_port True is not between"),
        ({"address": "web.example.org"}, "service_address 'web.example.org' is not a literal address"),
        ({"address": "127.0.0.1"}, "service_address 127.0.0.1 is an address that other nodes cannot dial"),
        ({"address": "::"}, "is an address that other nodes cannot dial"),
        ({"tags": "v2"}, "service_tags 'v2' is not a list: write [v2]"),
        ({"tags": ["v2.1"]}, "service_tags: 'v2.1' is not a DNS label"),
        ({"tags": [2]}, "service_tags: 2 is not a DNS label"),
        ({"check": "tcp"}, "service_check 'tcp' is not a dictionary"),
        ({"check": {"htp": "/"}, "tags": []}, "service_check: unknown key htp"),
        ({"check": {"http": "/", "tcp": True}}, "service_check has http and tcp: exactly one of http, tcp, grpc, script is needed"),
        ({"check": {"http": "health"}}, "service_check.http 'health' is neither a path nor a URL"),
        ({"check": {"http": "/a b"}}, "is neither a path nor a URL"),
        ({"check": {"http": "ftp://x/"}}, "is neither a path nor a URL"),
        ({"check": {"http": "http://x:99999/"}}, "is neither a path nor a URL"),
        ({"check": {"tcp": 8080}}, "service_check.tcp 8080 is not true: write {tcp: true}"),
        ({"check": {"grpc": ""}}, "service_check.grpc '' is neither true nor the name of a gRPC service"),
        ({"check": {"script": "/bin/true"}}, "service_check.script '/bin/true' is not a list of words"),
        ({"check": {"script": ["true"]}}, "service_check.script: true is not an absolute path"),
        ({"check": {"tcp": True, "method": "GET"}}, "service_check.method is for a check with http: leave it out"),
        ({"check": {"http": "/", "method": "get"}}, "service_check.method 'get' is no method of HTTP"),
        ({"check": {"tcp": True, "interval": 5}}, "service_check.interval 5 is not a time: write it with its unit"),
        ({"check": {"tcp": True, "interval": "5 s"}}, "service_check.interval '5 s' is not a time"),
        ({"check": {"tcp": True, "interval": "500ms"}}, "service_check.interval 500ms is below 1s"),
        ({"check": {"tcp": True, "timeout": "-2s"}}, "service_check.timeout '-2s' is not a time"),
        ({"check": {"tcp": True, "timeout": "0s"}}, "service_check.timeout 0s is no time at all"),
        ({"version": 2.1}, 'service_version 2.1 is not a text: write it in quotes, as 2.10 would become 2.1 (service_version: "2.1")'),
        ({"version": "2 1"}, "service_version '2 1' is not a version"),
        ({"site": "a\nb"}, "is not one line of text"),
        ({"meta": {"a b": "x"}}, "service_meta: 'a b' is not a name"),
        ({"meta": {"a": 1}}, "service_meta.a is not a text"),
        ({"meta": {"site": "x"}}, "service_meta: site is written by the role: set service_site"),
        ({"meta": {"vdloo-mesh": "x"}}, "service_meta: vdloo-mesh is the role's own"),
        ({"meta": {str(number): "" for number in range(61)}}, "service_meta has 61 entries, and 60 are the most"),
        ({"route": "web.example.org"}, "service_route 'web.example.org' is not a dictionary"),
        (
            {"route": {"port": 1}},
            "service_route: unknown key port: the route of a service knows host, path, retry, websocket, tag, near, canary",
        ),
        ({"route": {"host": "http://x"}}, "service_route: host 'http://x' is not a host name"),
        ({"route": {"path": "/" + "x" * 200}}, "service_route: the path has more than 200 characters"),
    ],
)
def test_what_is_wrong_is_told_with_its_variable_and_what_to_do(changes, message):
    if changes.get("check") == {"htp": "/"}:
        errors = service.errors_of({**WEB, **changes})
        assert message in errors[0] and "a check knows http, tcp, grpc, script, method, interval, timeout" in errors[0]
    else:
        assert message in only_error(**changes)


def test_the_route_of_a_service_is_told_in_one_way_only():
    route = {"host": "Web.example.org", "path": "/shop/", "near": True, "retry": True, "websocket": True}
    expected = {"host": "web.example.org", "path": "/shop", "service": "web", "port": 8080, "near": True, "websocket": True}
    assert service.route_of({**WEB, "route": route}) == expected
    assert routes.are_told([expected])
    assert service.route_of(WEB) == service.route_of({**WEB, "state": "absent", "route": route}) == {}


def test_all_mistakes_are_told_at_once():
    assert len(service.errors_of({**WEB, "name": "", "port": -1, "tags": ["_"], "check": {"tcp": False, "interval": "x"}})) == 5


def test_of_a_service_that_is_to_go_only_the_name_counts():
    assert service.errors_of({**WEB, "state": "absent", "port": 0, "check": {}}) == []
    assert service.errors_of({**WEB, "state": "absent", "name": "consul"})


@given(st.text(), st.text())
def test_whatever_the_site_and_version_are_called_their_tags_are_labels_or_none(kind_of_site, version):
    for tag in (routes.tag_of("site", kind_of_site), routes.tag_of("v", version)):
        assert tag == "" or service.NAME_RE.match(tag)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_nonsense_is_refused_and_never_a_crash(nonsense):
    for key in ("name", "port", "address", "tags", "check", "site", "meta", "version", "route"):
        if not service.errors_of({**WEB, key: nonsense}):
            json.dumps(defined(**{key: nonsense}))
