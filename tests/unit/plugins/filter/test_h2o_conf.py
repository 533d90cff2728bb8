# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.filter import h2o_conf
from hypothesis import given
from hypothesis import strategies as st

WEB = {"service": "web", "port": 8080}
GOOD_SETTINGS = {
    "http_port": 80,
    "https_port": 443,
    "tls": {},
    "attempts": 10,
    "upstream_timeout": 5,
    "request_timeout": 60,
    "request_limit": 67108864,
    "websocket_timeout": 300,
    "access_log": "journal",
    "consul_domain": "consul",
    "install_method": "package",
    "archive": "",
    "checksum": "",
}


def only_error(route):
    errors = h2o_conf.route_errors([route])
    assert len(errors) == 1, errors
    return errors[0]


@pytest.mark.parametrize(
    "route",
    [
        WEB,
        {"service": "web", "port": "8080"},
        {"service": "Web-2", "port": 1, "host": "*.example.org", "path": "/a/b-c_d.e~f", "retry": False},
        {"upstream": "db.example.org", "port": 65535},
        {"upstream": "192.0.2.7", "port": 80},
        {"upstream": "fc00::a2", "port": 80},
        {"upstream": "[fc00::a2]", "port": 80},
    ],
)
def test_a_valid_route_has_no_errors(route):
    assert h2o_conf.route_errors([route]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prot": 8080}, "unknown key prot: a route knows host, path, service, upstream, port, retry"),
        ({"port": 0}, "port 0 is not between 1 and 65535"),
        ({"port": 65536}, "port 65536 is not between 1 and 65535"),
        ({"port": True}, "port True is not between 1 and 65535"),
        ({"port": "http"}, "port 'http' is not between 1 and 65535"),
        ({"port": "٨٠"}, "is not between 1 and 65535"),
        ({"path": "api"}, "path 'api' does not start with /: write /api"),
        ({"path": "/a b"}, "is not a plain path"),
        ({"path": '/a"'}, "is not a plain path"),
        ({"path": "/a\n"}, "is not a plain path"),
        ({"path": "/a#{x}"}, "is not a plain path"),
        ({"path": "/a//b"}, "is not a plain path"),
        ({"path": "/a/../b"}, "is not a plain path"),
        ({"service": "my_web"}, "service 'my_web' is not a DNS label"),
        ({"service": "web.v2"}, "service 'web.v2' is not a DNS label"),
        ({"service": "web\n"}, "is not a DNS label"),
        ({"service": "w" * 64}, "is not a DNS label"),
        ({"service": "web'); system('id"}, "is not a DNS label"),
        ({"upstream": "db"}, "exactly one of service"),
        ({"service": None}, "exactly one of service"),
        ({"host": "http://x"}, "host 'http://x' is not a host name"),
        ({"host": "x:80"}, "host 'x:80' is not a host name"),
        ({"host": "a..b"}, "is not a host name"),
        ({"host": "default"}, "host 'default' is used by the role itself"),
        ({"host": "mesh-check.invalid"}, "is used by the role itself"),
        ({"retry": "no"}, "retry 'no' is neither true nor false"),
        ({"websocket": "ON"}, "websocket 'ON' is neither true nor false"),
        ({"near": 1}, "near 1 is neither true nor false"),
        ({"tag": "v2.1"}, "tag 'v2.1' is not a DNS label: give one of the service's tags"),
        ({"tag": "v2", "near": True}, "near and tag are both set, and DNS takes one tag at a time: leave one of them out"),
        ({"near": True, "retry": False}, "near and canary need retry: leave retry: false out"),
        ({"canary": {"tag": "v2", "percent": 10}, "retry": False}, "near and canary need retry"),
        ({"canary": "v2"}, "canary 'v2' is not a dictionary of tag and percent: write {tag: v2, percent: 10}"),
        ({"canary": {"tag": "v2"}}, "is not a dictionary of tag and percent"),
        ({"canary": {"tag": "v'2", "percent": 1}}, "is not a DNS label: give one of the service's tags"),
        ({"canary": {"tag": "v2", "percent": 101}}, "canary.percent 101 is not a whole number from 0 to 100"),
        ({"canary": {"tag": "v2", "percent": 2.5}}, "canary.percent 2.5 is not a whole number"),
        ({"service": None, "upstream": "db", "near": True}, "near choose among the instances of a service: name it in service"),
    ],
)
def test_a_bad_route_is_named_with_what_is_wrong(change, message):
    error = only_error({**WEB, **change})
    assert error.startswith("h2o_routes[0] (host ")
    assert message in error


@pytest.mark.parametrize("upstream", ["http://x", "x:80", "256.1.1.1", "1.2.3", "a b", "::g", "x/y", "x\n"])
def test_an_upstream_is_a_bare_name_or_address(upstream):
    assert "is neither a DNS name nor an IP address" in only_error({"upstream": upstream, "port": 80})


def test_a_missing_port_is_said_to_be_missing():
    assert "port is missing" in only_error({"service": "web"})


def test_two_routes_for_one_place_are_refused_and_both_named():
    routes = [WEB, {**WEB, "host": "a.example"}, {**WEB, "host": "A.example", "path": "/"}, {**WEB, "path": "/x"}, {**WEB, "path": "/x/"}]
    errors = h2o_conf.route_errors(routes)
    assert [error.split(":", maxsplit=1)[0] for error in errors] == [
        "h2o_routes[2] (host a.example, path /)",
        "h2o_routes[4] (host any, path /x/)",
    ]
    assert "h2o_routes[1] has the same host and path already" in errors[0]
    assert "h2o_routes[3] has the same host and path already" in errors[1]


def test_what_is_no_route_is_named_by_its_place():
    assert "h2o_routes[1]: 'web' is not a dictionary" in h2o_conf.route_errors([WEB, "web"])[0]
    assert h2o_conf.route_errors({"service": "web"}) == ["h2o_routes is not a list: give a list of routes"]


def test_bad_routes_cannot_become_a_configuration():
    with pytest.raises(AnsibleFilterError, match="port is missing"):
        h2o_conf.hosts([{"service": "web"}])


def test_a_service_is_retried_by_mruby_and_else_goes_to_the_proxy():
    paths = h2o_conf.hosts([WEB], handlers="/h.rb", attempts=10, timeout=5)["default"]["paths"]
    assert paths == {
        "/": {
            "mruby.handler": "require '/h.rb'; MeshRetry.new('web.service.consul:8080', 10, 5)",
            "proxy.reverse.url": "http://web.service.consul:8080/",
            "proxy.timeout.io": 60000,
        }
    }


@pytest.mark.parametrize(
    ("route", "options"),
    [
        ({**WEB, "retry": False}, {"handlers": "/h.rb", "attempts": 9}),
        ({**WEB, "retry": False, "websocket": False}, {"handlers": "/h.rb", "attempts": 1}),
        (WEB, {"attempts": 9}),
    ],
)
def test_h2os_own_proxy_serves_what_is_not_to_be_retried_and_everything_without_mruby(route, options):
    assert h2o_conf.hosts([route], **options)["default"]["paths"] == {"/": {"proxy.reverse.url": "http://web.service.consul:8080/"}}


def test_with_one_attempt_the_handler_still_asks_as_its_failures_name_the_service():
    paths = h2o_conf.hosts([WEB], handlers="/h.rb", attempts=1)["default"]["paths"]
    assert paths["/"]["mruby.handler"] == "require '/h.rb'; MeshRetry.new('web.service.consul:8080', 1, 5)"


def test_what_the_handler_leaves_to_the_proxy_may_take_as_long_as_a_request():
    paths = h2o_conf.hosts([WEB], handlers="/h.rb", request_timeout=90)["default"]["paths"]
    assert paths["/"]["proxy.timeout.io"] == 90000


@pytest.mark.parametrize(("change", "handlers"), [({}, "/h.rb"), ({"retry": False}, "/h.rb"), ({}, "")])
def test_a_websocket_passes_with_the_host_that_the_browser_asked_for(change, handlers):
    def commands(**more):
        return h2o_conf.hosts([{**WEB, **change, **more}], handlers=handlers, websocket_timeout=900)["default"]["paths"]["/"]

    added = {"proxy.websocket": True, "proxy.websocket.timeout": 900000, "proxy.preserve-host": True}
    assert commands(websocket=True) == {**commands(), **added}
    assert commands(websocket=False) == commands()


@pytest.mark.parametrize(
    ("change", "handler", "proxy"),
    [
        ({"near": True}, "['site-the-cellar.web.service.consul:8080', 'web.service.consul:8080'], 10, 5", "web"),
        ({"tag": "V2"}, "'v2.web.service.consul:8080', 10, 5", "v2.web"),
        ({"canary": {"tag": "v2", "percent": 10}}, "'web.service.consul:8080', 10, 5, 'v2.web.service.consul:8080', 10", "web"),
        (
            {"tag": "v1", "canary": {"tag": "v2", "percent": 10}},
            "'v1.web.service.consul:8080', 10, 5, 'v2.web.service.consul:8080', 10",
            "v1.web",
        ),
        ({"near": False, "tag": "", "canary": {}}, "'web.service.consul:8080', 10, 5", "web"),
    ],
)
def test_a_route_chooses_among_the_instances_by_the_names_that_it_asks_for(change, handler, proxy):
    paths = h2o_conf.hosts([{**WEB, **change}], handlers="/h.rb", attempts=10, timeout=5, site="The Cellar")["default"]["paths"]
    assert paths["/"] == {
        "mruby.handler": f"require '/h.rb'; MeshRetry.new({handler})",
        "proxy.reverse.url": f"http://{proxy}.service.consul:8080/",
        "proxy.timeout.io": 60000,
    }


def test_on_a_node_that_stands_nowhere_nothing_is_near():
    near = h2o_conf.hosts([{**WEB, "near": True}], handlers="/h.rb", attempts=10)
    assert near == h2o_conf.hosts([WEB], handlers="/h.rb", attempts=10)


def test_instances_are_chosen_also_where_nothing_is_retried():
    paths = h2o_conf.hosts([{**WEB, "near": True}], handlers="/h.rb", attempts=1, site="home")["default"]["paths"]
    assert "['site-home.web.service.consul:8080', 'web.service.consul:8080'], 1, 5" in paths["/"]["mruby.handler"]


def test_an_ipv6_upstream_is_put_in_brackets():
    paths = h2o_conf.hosts([{"upstream": "FC00::00a2", "port": 80}])["default"]["paths"]
    assert paths["/"]["proxy.reverse.url"] == "http://[fc00::a2]:80/"


def test_a_host_without_a_route_for_the_root_says_so_in_the_name_of_the_node():
    result = h2o_conf.hosts([{**WEB, "host": "shop.example", "path": "/api/"}], handlers="/h.rb", node="o'node\\")
    assert sorted(result["shop.example"]["paths"]) == ["/", "/api"]
    assert result["default"]["paths"]["/"]["mruby.handler"] == "require '/h.rb'; MeshNotFound.new('o\\'node\\\\')"


def test_a_host_is_found_on_ports_other_than_the_default():
    result = h2o_conf.hosts([{**WEB, "host": "shop.example"}], ports=[8000, 443])
    assert sorted(result) == ["default", "shop.example", "shop.example:8000"]
    assert result["shop.example:8000"] == result["shop.example"]


def test_several_listeners_become_several_keys():
    assert h2o_conf.conf({"listen": [{"port": 80}, {"port": 443, "ssl": {"key-file": "/k"}}], "user": "x"}) == (
        '"listen":\n  "port": 80\n"listen":\n  "port": 443\n  "ssl":\n    "key-file": "/k"\n"user": "x"\n'
    )


def test_all_listeners_are_found_wherever_they_stand():
    settings = {"listen": [{"port": 80}, 81], "hosts": {"a": {"listen": {"host": "127.0.0.1", "port": 8088}, "paths": {"/": {"port": 1}}}}}
    assert h2o_conf.listeners(settings) == ["*:80", "*:81", "127.0.0.1:8088"]


def test_the_first_host_is_the_one_for_all_other_names_and_a_wildcard_comes_after_the_names_that_it_covers():
    names = ["*.a.example", "*.b.a.example", "a.example", "b.a.example", "c.b.a.example"]
    text = h2o_conf.conf({"hosts": h2o_conf.hosts([{**WEB, "host": name} for name in names], ports=[8000])})
    hosts = list(yaml.safe_load(text)["hosts"])
    exact = ["a.example", "a.example:8000", "b.a.example", "b.a.example:8000", "c.b.a.example", "c.b.a.example:8000"]
    assert hosts == ["default", *exact, "*.b.a.example:8000", "*.a.example:8000", "*.b.a.example", "*.a.example"]


def test_booleans_are_spelled_as_h2o_wants_them():
    assert h2o_conf.conf({"a": True, "b": {"c": False}}) == '"a": "ON"\n"b":\n  "c": "OFF"\n'


def test_a_value_that_yaml_cannot_hold_is_refused():
    with pytest.raises(AnsibleFilterError, match="cannot hold"):
        h2o_conf.conf({"a": object()})


TEXT = st.text(
    st.characters(blacklist_categories=("Cs",), min_codepoint=1, max_codepoint=0xFFFF).filter(lambda c: c not in "\ufeff\ufffe\uffff")
)
VALUES = st.recursive(
    st.one_of(TEXT, st.integers(0, 10**6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(TEXT.filter(lambda key: key != "listen"), VALUES, max_size=4))
def test_what_is_written_is_read_back_as_it_was(settings):
    def without_listen(node):
        if isinstance(node, dict):
            return "listen" not in node and all(map(without_listen, node.values()))
        return all(map(without_listen, node)) if isinstance(node, list) else True

    if without_listen(settings):
        assert yaml.safe_load(h2o_conf.conf(settings)) == (settings or None)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_the_order_of_the_settings_does_not_matter(settings):
    assert h2o_conf.conf(settings) == h2o_conf.conf(dict(reversed(list(settings.items()))))


@given(st.text())
def test_no_text_leaves_its_ruby_quotes(text):
    quoted = h2o_conf.ruby_string(text)
    inner = quoted[1:-1]
    while inner:
        assert inner[0] != "'"
        inner = inner[2:] if inner[0] == "\\" else inner[1:]


@given(
    st.fixed_dictionaries(
        {
            "service": st.text(max_size=8),
            "path": st.text(max_size=8).map(lambda t: "/" + t),
            "host": st.text(max_size=8),
            "port": st.integers(),
        }
    )
)
def test_what_passes_holds_nothing_that_ruby_or_yaml_would_read(route):
    if not h2o_conf.route_errors([route]):
        text = json.dumps([route["service"], route["path"], route["host"]])
        assert not set("'#{}\\`$\n") & set(text)


def test_good_settings_have_no_errors():
    assert h2o_conf.setting_errors(GOOD_SETTINGS) == []
    tls = {"certificate_file": "/c", "key_file": "/k"}
    assert h2o_conf.setting_errors({**GOOD_SETTINGS, "tls": tls, "access_log": "/var/log/h2o.log"}) == []
    archive = {"install_method": "binary", "archive": "/a.tgz", "checksum": "sha256:" + "0" * 64}
    assert h2o_conf.setting_errors({**GOOD_SETTINGS, **archive}) == []
    assert h2o_conf.setting_errors({**GOOD_SETTINGS, "request_limit": "1000000", "attempts": "3"}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"http_port": 0}, "h2o_http_port 0 is not between 1 and 65535"),
        ({"http_port": 443, "tls": {"certificate_file": "/c", "key_file": "/k"}}, "h2o_http_port and h2o_https_port are both 443"),
        ({"tls": {"certificate_file": "/c"}}, "h2o_tls.key_file (empty) is not an absolute path"),
        ({"tls": {"certificate_file": "c", "key_file": "/k"}}, "h2o_tls.certificate_file c is not an absolute path"),
        ({"attempts": 0}, "h2o_attempts 0 is below 1"),
        ({"upstream_timeout": 0}, "h2o_upstream_timeout 0 is below 1"),
        ({"request_timeout": -1}, "h2o_request_timeout -1 is below 1: give at least 1"),
        ({"request_limit": 0}, "h2o_request_limit 0 is below 1: give at least 1"),
        ({"request_limit": False}, "h2o_request_limit False is below 1"),
        ({"websocket_timeout": 0}, "h2o_websocket_timeout 0 is below 1"),
        ({"access_log": "|rm -rf /"}, "h2o_access_log '|rm -rf /' is neither"),
        ({"access_log": "/var/log/"}, "h2o_access_log '/var/log/' is neither"),
        ({"consul_domain": "con sul"}, "h2o_consul_domain 'con sul' is not a DNS name"),
        ({"install_method": "binary", "checksum": "sha256:" + "0" * 64}, "h2o_binary_src is empty"),
        ({"install_method": "binary", "archive": "/a"}, "h2o_binary_checksum (empty) is not sha256: and 64 hex digits"),
        ({"install_method": "source", "archive": "/a", "checksum": "sha256:" + "0" * 64}, "h2o_source_url /a is not a URL"),
        (
            {"install_method": "source", "archive": "https://x/y", "checksum": "0" * 64},
            "h2o_source_checksum " + "0" * 64 + " is not sha256:",
        ),
    ],
)
def test_a_bad_setting_is_named_with_what_is_wrong(change, message):
    errors = h2o_conf.setting_errors({**GOOD_SETTINGS, **change})
    assert len(errors) == 1
    assert errors[0].startswith(message)
