# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules of the service role, on a node below a directory of its own, with an agent that reads its folder when it is told to."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import unit
from ansible_collections.vdloo.mesh.plugins.modules import service_preflight, service_settle

MARK = "0123456789abcdef"


def web(mark=MARK, **changes):
    return {"service": {"id": "web", "name": "web", "port": 8080, "meta": {"vdloo-mesh": mark}, **changes}}


class Node:
    """A node with Consul on it. What was registered by the API is in `by_api`."""

    def __init__(self, base, capsys):
        self.base, self.capsys = base, capsys
        self.config = base / "consul.d"
        self.config.mkdir()
        (self.config / "consul.json").write_text('{"enable_local_script_checks": false}')
        (base / "manifests").mkdir()
        record = {
            "version": manifest.RECORD_VERSION,
            "role": "consul",
            "facts": {"http_port": 0},
            "files": {str(self.config / "consul.json"): {}},
            "directories": {},
            "programs": {"/usr/bin/consul": {}},
            "services": {},
        }
        self.record = base / "manifests" / "consul.json"
        self.record.write_text(json.dumps(record))
        self.by_api, self.seen, self.calls = {}, {}, []
        self.refuses = False
        self.scripts = False

    def write(self, name, content):
        (self.config / name).write_text(json.dumps(content))

    def read(self):
        self.seen = {}
        for path in sorted(self.config.glob("service-*.json")):
            entry = json.loads(path.read_text())["service"]
            self.seen[entry["id"]] = {"ID": entry["id"], "Service": entry["name"], "Port": entry["port"], "Meta": entry["meta"]}

    def answer(self, method, path):
        self.calls.append(f"{method} {path}")
        if path == "/v1/agent/services":
            return 200, {**self.by_api, **self.seen}
        if path == "/v1/agent/self":
            return 200, {"DebugConfig": {"EnableLocalScriptChecks": self.scripts}}
        if path == "/v1/agent/reload":
            if self.refuses:
                return 500, "Failed reloading services: no such thing"
            self.read()
            return 200, None
        if path.startswith("/v1/agent/service/deregister/"):
            self.by_api.pop(path.rpartition("/")[2])
            return 200, None
        return 404, "no such call"

    def listen(self, port):
        record = json.loads(self.record.read_text())
        record["facts"]["http_port"] = self.port = port
        self.record.write_text(json.dumps(record))

    def run(self, module, check=False, **options):
        with patch_module_args({**options, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return json.loads(self.capsys.readouterr().out)

    def look(self, check=False, **options):
        asked = {"name": "web", "port": 8080, "mark": MARK, "host": "n1", "state_dir": str(self.base), **options}
        return self.run(service_preflight, check, **asked)

    def settle(self, check=False, **options):
        return self.run(service_settle, check, **{"name": "web", "mark": MARK, "http_port": self.port, "timeout": 1, **options})


@pytest.fixture
def node(tmp_path, capsys, monkeypatch):
    made = Node(tmp_path, capsys)
    monkeypatch.setattr(unit, "show", lambda _run, _name: {"ActiveState": "active"})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, content = made.answer(self.command, self.path)
            body = content.encode() if status == 500 else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET

        def log_message(self, *_args):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.listen(server.server_port)
    yield made
    server.shutdown()
    server.server_close()


# ---------------------------------------------------------------- the look


def test_the_look_finds_where_the_role_consul_has_put_things(node):
    found = node.look()
    assert (found["changed"], found["config_dir"], found["binary"]) == (False, str(node.config), "/usr/bin/consul")
    assert (found["http_port"], found["running"], found["problem"]) == (node.port, True, "")
    assert found["as_wanted"] is False
    assert node.look(mark="")["as_wanted"] is True


def test_a_definition_that_the_agent_has_read_is_as_wanted_and_another_is_not(node):
    node.write("service-web.json", web())
    node.read()
    assert node.look()["as_wanted"] is True
    assert node.look(mark="other")["as_wanted"] is False
    assert node.look(mark="")["as_wanted"] is False


def test_a_node_without_consul_is_refused_but_for_a_dry_run(node):
    node.record.unlink()
    refused = node.look()
    assert (
        refused["failed"]
        and "Consul is not set up on this node: make it a node of the mesh with site.yml first (host n1)" in refused["msg"]
    )
    assert node.look(check=True)["config_dir"] == "/etc/consul.d"


def test_an_agent_that_does_not_answer_is_told_and_no_failure(node):
    node.listen(1)
    found = node.look()
    assert found["as_wanted"] is False and "refused" in found["problem"]


def test_a_file_of_somebody_else_in_the_place_is_refused(node):
    node.write("service-web.json", {"service": {"name": "web"}})
    assert "service-web.json is there, and this role has not written it: move it away (host n1)" in node.look()["msg"]


@pytest.mark.parametrize(
    "content",
    [
        {"service": {"Name": "web", "Port": 8080, "ID": "web-1"}},
        {"services": [{"name": "db", "port": 1}, {"id": "web", "name": "site", "port": 99}]},
        {"Service": {"name": "WEB", "port": 8080}},
    ],
)
def test_a_service_that_another_file_defines_is_refused(node, content):
    node.write("mine.json", content)
    assert f"{node.config}/mine.json defines the service" in node.look()["msg"]


def test_other_services_and_broken_files_are_in_nobodys_way(node):
    node.write("service-db.json", {"service": {"id": "db", "name": "db", "port": 8080, "meta": {}}})
    node.write("mine.json", {"service": {"id": "web-2", "name": "web", "port": 8081}})
    (node.config / "broken.json").write_text("{")
    (node.config / "list.json").write_text("[]")
    assert "failed" not in node.look()


def test_a_second_registration_by_the_api_is_refused_and_one_that_is_replaced_is_not(node):
    node.by_api["web"] = {"ID": "web", "Service": "web", "Port": 8080, "Meta": {}}
    assert node.look()["as_wanted"] is False
    node.by_api["web-1"] = {"ID": "web-1", "Service": "web", "Port": 8080, "Meta": {}}
    assert "the agent has the service web on port 8080 already, under the id web-1: remove that registration" in node.look()["msg"]


def test_a_script_is_refused_where_the_agent_runs_none(node):
    told = node.look(script=True)["msg"]
    assert "let the agent run scripts with consul_config: {enable_local_script_checks: true}" in told
    node.scripts = True
    assert "failed" not in node.look(script=True)


@pytest.mark.parametrize(
    "content",
    [
        {"service": {"name": "mine", "check": {"args": ["/bin/true"]}}},
        {"services": [{"name": "mine", "Checks": [{"tcp": "127.0.0.1:1"}, {"Args": ["/bin/true"]}]}]},
        {"check": {"name": "disk", "args": ["/bin/true"]}},
    ],
)
def test_nothing_is_published_beside_a_file_with_which_a_reload_would_lose_all_services(node, content):
    node.write("mine.json", content)
    assert f"{node.config}/mine.json has a check with a script, and the agent runs none" in node.look()["msg"]
    node.scripts = True
    assert "failed" not in node.look()


def test_whether_an_agent_that_is_off_runs_scripts_is_read_from_its_files(node):
    node.listen(1)
    assert node.look(script=True)["failed"]
    node.write("consul.json", {"enable_local_script_checks": True})
    assert "failed" not in node.look(script=True)


# ---------------------------------------------------------------- the agent


def test_a_new_definition_is_read_by_one_reload_and_never_again(node):
    node.write("service-web.json", web())
    assert node.settle()["changed"] is True
    assert node.settle()["changed"] is False
    assert node.calls.count("PUT /v1/agent/reload") == 1


def test_a_dry_run_says_that_it_would_be_read_and_does_not(node):
    node.write("service-web.json", web())
    assert node.settle(check=True)["changed"] is True
    assert "PUT /v1/agent/reload" not in node.calls


def test_a_changed_definition_is_read_again(node):
    node.write("service-web.json", web("1" * 16))
    node.settle(mark="1" * 16)
    node.write("service-web.json", web("2" * 16))
    assert node.settle(mark="2" * 16)["changed"] is True


def test_a_service_without_a_file_is_gone_after_a_reload(node):
    node.write("service-web.json", web())
    node.settle()
    (node.config / "service-web.json").unlink()
    assert node.settle(mark="")["changed"] is True
    assert node.seen == {}
    assert node.settle(mark="")["changed"] is False


def test_a_service_that_came_by_the_api_is_deregistered_when_it_is_to_be_absent(node):
    node.by_api["web"] = {"ID": "web", "Service": "web", "Port": 8080, "Meta": {}}
    assert node.settle(mark="")["changed"] is True
    assert node.by_api == {}


def test_files_that_the_agent_does_not_take_are_told_as_refused(node):
    node.refuses = True
    told = node.settle()
    assert told["failed"] and told["refused"] and "Failed reloading services: no such thing" in told["msg"]


def test_an_agent_that_does_not_answer_in_time_is_a_failure_that_is_no_refusal(node):
    told = node.settle(http_port=1)
    assert told["failed"] and not told["refused"] and "the agent does not answer" in told["msg"]


def test_an_agent_that_never_shows_the_definition_is_a_failure(node):
    told = node.settle()
    assert told["failed"] and "does not show the service web" in told["msg"]
