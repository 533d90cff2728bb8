# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting for a service, with agents that do whatever agents can do."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
import urllib.parse

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client, instances
from ansible_collections.vdloo.mesh.plugins.modules import wait_for_service
from hypothesis import given
from hypothesis import strategies as st

PASSING = ("serfHealth", "Serf Health Status", "passing", "Agent alive and reachable")
REFUSED = ("service:web", "Service 'web' check", "critical", "Get http://127.0.0.1:8080/:\n dial tcp: connection refused")
IN_MAINTENANCE = ("_service_maintenance:web", "Service Maintenance Mode", "critical", "new disk")


def instance(node, *checks, tags=(), name="web"):
    return {
        "Node": {"Node": node, "Address": f"fc00::{node[1:]}"},
        "Service": {"ID": name, "Service": name, "Port": 8080, "Address": "", "Tags": list(tags)},
        "Checks": [dict(zip(("CheckID", "Name", "Status", "Output"), check)) for check in (PASSING, *checks)],
    }


class FakeAgent:
    """An agent on a port of the loopback. A query is held while `index` is not above that of the query, as Consul does."""

    def __init__(self):
        self.members = [{"Name": name, "Status": 1} for name in ("n1", "n2", "n3")]
        self.instances = []
        self.catalog = {"consul": [], "web": []}
        self.leader = "127.0.0.1:8300"
        self.index = 5
        self.holds = True
        self.raw = {}
        self.asked = []

    def set(self, *instances):
        self.instances = list(instances)
        self.index += 1

    def answer(self, path, query):
        self.asked.append((path, query))
        if path in self.raw:
            return self.raw[path]
        if path == "/v1/status/leader":
            return 200, self.leader
        if path == "/v1/agent/members":
            return 200, self.members
        if not self.leader and "stale" not in query:
            return 500, "No cluster leader"
        if path == "/v1/catalog/services":
            return 200, self.catalog
        deadline = time.monotonic() + (float(query.get("wait", ["0ms"])[0][:-2]) / 1000 or 300)
        asked = int(query.get("index", ["0"])[0])
        while self.holds and 0 < asked == self.index and time.monotonic() < deadline:
            time.sleep(0.01)
        return 200, self.instances

    def looks(self):
        return [query for path, query in self.asked if path == "/v1/health/service/web"]


@pytest.fixture
def agent():
    fake = FakeAgent()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            parts = urllib.parse.urlsplit(self.path)
            status, content = fake.answer(parts.path, urllib.parse.parse_qs(parts.query, keep_blank_values=True))
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("X-Consul-Index", str(fake.index))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    fake.addr = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def wait(agent, capsys):
    """wait(options) is what the module says."""

    def wait(**options):
        chosen = {"consul_addr": agent.addr, "name": "web", "timeout": 3, "interval": 1, **options}
        with patch_module_args(chosen), pytest.raises(SystemExit):
            wait_for_service.main()
        return json.loads(capsys.readouterr().out)

    return wait


def later(seconds, action):
    threading.Timer(seconds, action).start()


# ---------------------------------------------------------------- who counts


def test_it_answers_at_once_when_all_are_there_and_says_what_it_saw(agent, wait):
    agent.set(instance("n1"), instance("n2", ("a", "A", "passing", "one\ntwo")))
    told = wait(count=2)
    assert not told.get("failed") and not told["changed"] and told["missing"] == "" and told["waited"] < 1
    assert told["instances"][1] == {
        "node": "n2",
        "id": "web",
        "address": "fc00::2",
        "port": 8080,
        "healthy": True,
        "checks": [
            {"id": "serfHealth", "name": "Serf Health Status", "status": "passing", "output": "Agent alive and reachable"},
            {"id": "a", "name": "A", "status": "passing", "output": "one two"},
        ],
    }


def test_it_answers_as_soon_as_an_instance_turns_healthy(agent, wait):
    agent.set(instance("n1", REFUSED))
    later(1, lambda: agent.set(instance("n1")))
    told = wait(timeout=30)
    assert not told.get("failed") and 0.8 < told["waited"] < 2
    assert len(agent.looks()) <= 3


@pytest.mark.parametrize("status", ["warning", "critical", "unheard-of"])
def test_what_does_not_pass_is_not_healthy_and_the_message_says_why(agent, wait, status):
    agent.set(instance("n1"), instance("n2", ("web", "web alive", status, "x" * 5000)))
    told = wait(count=2, timeout=1)
    assert told["failed"]
    assert f"2 healthy instances of web wanted, 1 there. Not healthy: n2: check 'web alive' is {status}: xxxx" in told["msg"]
    assert len(told["msg"]) < 400
    assert [one["healthy"] for one in told["instances"]] == [True, False]


def test_an_instance_in_maintenance_counts_only_on_request_and_then_only_if_it_is_well(agent, wait):
    agent.set(instance("n1", IN_MAINTENANCE))
    assert "n1: in maintenance (new disk)" in wait(timeout=1)["msg"]
    assert not wait(timeout=1, in_maintenance=True).get("failed")
    agent.set(instance("n1", IN_MAINTENANCE, REFUSED))
    assert "Get http://127.0.0.1:8080/: dial tcp: connection refused" in wait(timeout=1, in_maintenance=True)["msg"]


def test_an_instance_whose_node_gossip_does_not_know_alive_does_not_count(agent, wait):
    agent.set(instance("n1"))
    agent.members[0]["Status"] = 4
    assert "n1: its node is not alive for the others" in wait(timeout=1)["msg"]
    later(1, lambda: agent.members[0].update(Status=1))
    # Nothing changes in the catalog.
    assert not wait(timeout=20).get("failed")


def test_only_instances_with_the_tag_and_on_the_node_count(agent, wait):
    agent.set(instance("n1", tags=["v1"]), instance("n2", tags=["v2"]))
    assert [one["node"] for one in wait(tag="v2")["instances"]] == ["n2"]
    assert [one["node"] for one in wait(node="n1")["instances"]] == ["n1"]
    assert "web with the tag v3 wanted, 0 there. It is registered on n1, n2, with the tags v1, v2" in wait(tag="v3", timeout=1)["msg"]
    assert "web on n3 wanted, 0 there. It is registered on n1, n2" in wait(node="n3", timeout=1)["msg"]


def test_a_name_that_nobody_registered_is_told_with_those_that_are_like_it(agent, wait):
    agent.catalog = {name: [] for name in ("web-shop", *(f"other{number}" for number in range(50)))}
    assert wait(name="webshop", timeout=1)["msg"].endswith("Nobody registered the service webshop. Known are web-shop")
    assert "Known are" not in wait(name="xyz", timeout=1)["msg"]


def test_of_many_instances_some_are_named(agent, wait):
    agent.set(*[instance(f"n{number}", REFUSED) for number in range(40)])
    told = wait(timeout=1)
    assert "and 30 more" in told["msg"] and len(told["msg"]) < 2500


def test_they_must_have_been_healthy_for_as_long_as_is_asked(agent, wait):
    agent.set(instance("n1"))
    told = wait(steady=2, timeout=9)
    assert not told.get("failed") and 2 <= told["waited"] < 3.5


def test_a_break_begins_the_time_anew(agent, wait):
    agent.set(instance("n1"))
    later(1, lambda: agent.set(instance("n1", REFUSED)))
    later(1.5, lambda: agent.set(instance("n1")))
    told = wait(steady=2, timeout=9)
    assert not told.get("failed") and 3.4 <= told["waited"] < 5.5


def test_what_was_healthy_for_too_short_a_time_is_told(agent, wait):
    agent.set(instance("n1", REFUSED))
    later(1.5, lambda: agent.set(instance("n1")))
    assert "s only, 3 s are wanted" in wait(steady=3, timeout=4)["msg"]


# ---------------------------------------------------------------- what agents do


def test_an_agent_that_does_not_run_is_told_when_the_time_is_over(wait):
    started = time.monotonic()
    told = wait(consul_addr="http://127.0.0.1:1", timeout=3)
    assert "the agent does not answer: GET http://127.0.0.1:1/v1/status/leader: [Errno 111] Connection refused" in told["msg"]
    assert 1 < time.monotonic() - started < 3.5


def test_an_agent_that_hangs_does_not_hold_it_up(wait):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        told = wait(consul_addr=f"127.0.0.1:{silent.getsockname()[1]}", timeout=3)
    assert "the agent does not answer" in told["msg"] and "no answer in time" in told["msg"]
    assert time.monotonic() - started < 4


def test_an_agent_that_comes_back_is_asked_again(agent, wait):
    agent.set(instance("n1"))
    agent.raw["/v1/health/service/web"] = (500, b"rpc error: No cluster leader")
    later(1.5, agent.raw.clear)
    assert not wait(timeout=20).get("failed")


def test_errors_are_not_answered_with_a_storm_of_requests(agent, wait):
    agent.raw["/v1/health/service/web"] = (500, b"no")
    told = wait(timeout=8)
    assert "500 no" in told["msg"]
    # After 1, 2 and 4 seconds.
    assert len(agent.looks()) <= 4


def test_an_agent_that_does_not_hold_the_query_is_not_asked_without_end(agent, wait):
    agent.set(instance("n1", REFUSED))
    agent.holds = False
    wait(timeout=4)
    assert len(agent.looks()) <= 6


def test_an_index_that_goes_backwards_is_no_reason_to_wait(agent, wait):
    agent.set(instance("n1", REFUSED))

    def restart():
        agent.index = 1
        agent.instances = [instance("n1")]

    later(1, restart)
    assert wait(timeout=20)["waited"] < 5


def test_what_was_seen_before_the_agent_went_away_is_told(agent, wait):
    agent.set(instance("n1", REFUSED))
    later(1, lambda: agent.raw.update({"/v1/status/leader": (500, b"gone")}))
    later(1, lambda: agent.set(*agent.instances))
    told = wait(timeout=5)
    assert "the agent does not answer: " in told["msg"]
    assert "500 gone. Before that: 1 healthy instance of web wanted, 0 there" in told["msg"]


@pytest.mark.parametrize("answer", [b"", b"nothing", b"{}", b"[1]", b'[{"Node": 1}]', b'"' + b"x" * 99 + b'"', b"[[]]", b"null"])
def test_an_answer_that_is_not_consuls_is_an_error_that_names_the_call(agent, wait, answer):
    agent.raw["/v1/health/service/web"] = (200, answer)
    told = wait(timeout=1)
    assert told["failed"]
    assert "/v1/health/service" in told["msg"] or "Nobody registered" in told["msg"]


def test_without_a_leader_what_a_server_knew_counts_of_those_that_are_alive(agent, wait):
    agent.leader = ""
    agent.set(instance("n1"), instance("n2"))
    agent.members[1]["Status"] = 4
    assert not wait().get("failed")
    assert all("stale" in query for query in agent.looks())
    assert "2 healthy instances of web wanted, 1 there. Not healthy: n2: its node is not alive" in wait(count=2, timeout=1)["msg"]


def test_with_a_leader_nothing_stale_is_taken(agent, wait):
    agent.set(instance("n1"))
    wait()
    assert not any("stale" in query for query in agent.looks())


# ---------------------------------------------------------------- check mode and bad input


def test_check_mode_looks_once_and_does_not_fail(agent, wait):
    agent.set(instance("n1", REFUSED))
    told = wait(timeout=300, steady=20, _ansible_check_mode=True)
    assert not told.get("failed") and "Not healthy: n1" in told["missing"] and told["waited"] < 1
    assert len(agent.looks()) == 1
    assert not wait(consul_addr="http://127.0.0.1:1", timeout=300, _ansible_check_mode=True).get("failed")


def test_with_no_time_it_looks_once_and_fails(agent, wait):
    agent.set(instance("n1", REFUSED))
    told = wait(timeout=0)
    assert told["failed"] and told["waited"] < 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "a_b"}, "name: 'a_b' is no name of a service"),
        ({"name": "web/../kv"}, "name: 'web/../kv' is no name of a service"),
        ({"name": "x" * 64}, "is no name of a service"),
        ({"node": "n 1"}, "node: 'n 1' is no name of a node"),
        ({"tag": "a\nb"}, "tag: 'a\\nb' is no tag"),
        ({"count": 0}, "count: 0 is below 1"),
        ({"timeout": -1}, "timeout: -1 is below 0"),
        ({"interval": 0}, "interval: 0 is below 1"),
        ({"steady": 3}, "steady: 3 is not between 0 and timeout (3)"),
        ({"steady": -1}, "steady: -1 is not between"),
        ({"consul_addr": "ftp://x"}, "consul_addr: 'ftp://x' is no address of a Consul agent"),
    ],
)
def test_bad_input_is_refused_before_anybody_is_asked(agent, wait, options, told):
    assert told in wait(**options)["msg"]
    assert agent.asked == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Node", "Service", "Checks", "ID", "CheckID"]), inner),
)


@given(json_values)
def test_whatever_an_agent_answers_it_is_instances_or_an_error(value):
    try:
        found = instances.parse(value, {"n1"})
    except client.ClientError:
        return
    assert all(isinstance(one, instances.Instance) for one in found)
