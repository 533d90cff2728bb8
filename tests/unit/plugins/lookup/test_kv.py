# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import base64
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template
from ansible_collections.vdloo.mesh.plugins.lookup import kv
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]
APPS = {
    "apps/web/port": "8080",
    "apps/web/tls/certificate": "/etc/ssl/web.pem",
    "apps/web/empty": "",
    "apps/website/port": "80",
    "apps/name": "prod",
}


class Agent(http.server.ThreadingHTTPServer):
    """Consul's key/value store as far as it can be read, on a port of the loopback."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {key: value if isinstance(value, bytes) else value.encode() for key, value in content.items()}
        self.requests = []
        self.leader = True
        self.token = None

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        agent, parts = self.server, urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
        prefix = urllib.parse.unquote(parts.path)[len("/v1/kv/") :]
        agent.requests.append(self.path)
        found = [
            {"Key": key, "Value": base64.b64encode(value).decode() if value else None}
            for key, value in sorted(agent.content.items())
            if key.startswith(prefix) and "recurse" in query
        ]
        if agent.token and self.headers.get("X-Consul-Token") != agent.token:
            self.reply(403, b"Permission denied")
        elif not agent.leader and "stale" not in query:
            self.reply(500, b"No cluster leader")
        else:
            self.reply(200, json.dumps(found).encode()) if found else self.reply(404, b"")

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture
def serve(monkeypatch):
    """Start agents with a content; Ansible's environment names the last of them."""
    for name in ("CONSUL_HTTP_TOKEN", "CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_HTTP_SSL_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    agents = []

    def start(content):
        agent = Agent(content)
        threading.Thread(target=agent.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        agents.append(agent)
        monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
        return agent

    yield start
    for agent in agents:
        agent.shutdown()
        agent.server_close()


def read(*paths, **options):
    return lookup_loader.get("vdloo.mesh.kv").run(list(paths), {}, **options)


def template(text, **variables):
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text))


# ---------------------------------------------------------------- keys and folders


def test_a_key_is_a_string_and_a_folder_a_dictionary(serve):
    serve(APPS)
    assert read("apps/web/port", "apps/web", "apps/website") == [
        "8080",
        {"port": "8080", "tls": {"certificate": "/etc/ssl/web.pem"}, "empty": ""},
        {"port": "80"},
    ]


def test_one_path_is_one_request(serve):
    agent = serve(APPS)
    read("apps/web")
    assert agent.requests == ["/v1/kv/apps/web?recurse=&stale="]


def test_a_key_that_only_begins_like_the_path_is_not_read(serve):
    serve({"apps/web2": "x"})
    with pytest.raises(AnsibleError, match="nothing at 'apps/web' "):
        read("apps/web")


@pytest.mark.parametrize("path", ["", "/"])
def test_an_empty_path_is_the_whole_store(serve, path):
    serve({"a": "1", "b/c": "2"})
    assert read(path) == [{"a": "1", "b": {"c": "2"}}]


def test_a_key_that_is_a_folder_too_keeps_its_own_value_under_the_empty_name(serve):
    serve({"a/b": "own", "a/b/c": "inner", "a/b-c": "other"})
    assert read("a", "a/b", "a/b/", "a/b/c") == [
        {"b": {"": "own", "c": "inner"}, "b-c": "other"},
        {"": "own", "c": "inner"},
        {"c": "inner"},
        "inner",
    ]


def test_an_empty_folder_is_an_empty_dictionary(serve):
    serve({"a/": "", "a/b/": "", "a/c": "1"})
    assert read("a", "a/b") == [{"b": {}, "c": "1"}, {}]


def test_a_leading_slash_means_the_root(serve):
    serve(APPS)
    assert read("/apps/name") == ["prod"]


@pytest.mark.parametrize("name", ["with space", "ü", "100%", "a%41b", "a?b=c", "a#b", "a&stale"])
def test_a_key_may_have_characters_that_mean_something_in_a_url(serve, name):
    serve({f"odd/{name}": "here"})
    assert read(f"odd/{name}", "odd") == ["here", {name: "here"}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"a/b": "1", "a/b/": "2"}, "'a/b' and 'a/b/' both have a value"),
        ({"a//b": "1"}, "'a//b' has a folder without a name"),
        ({"a/" + "x/" * 100 + "y": "1"}, "more than 100 folders deep"),
    ],
)
def test_keys_that_make_no_dictionary_are_named(serve, content, told):
    serve(content)
    with pytest.raises(AnsibleError, match=told):
        read("a")


def test_thousands_of_keys_are_one_dictionary(serve):
    serve({f"big/{number % 40}/{number}/name": str(number) for number in range(4000)})
    (found,) = read("big")
    assert len(found) == 40
    assert {int(value["name"]) for folder in found.values() for value in folder.values()} == set(range(4000))


@given(
    st.dictionaries(st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=4).map("/".join), st.text(max_size=5), max_size=20)
)
def test_whatever_is_below_a_folder_is_found_where_its_key_says(entries):
    found = kv.select({f"top/{key}": text for key, text in entries.items()} | {"top/": ""}, "top")
    flat = {}
    rest = [("", found)]
    while rest:
        path, place = rest.pop()
        for name, value in place.items():
            key = f"{path}/{name}".strip("/")
            rest.append((key, value)) if isinstance(value, dict) else flat.update({key: value})
    assert flat == entries


# ---------------------------------------------------------------- values


def test_a_missing_path_is_an_error_that_names_it(serve):
    serve(APPS)
    with pytest.raises(AnsibleError, match="nothing at 'apps/db'.*give a default"):
        read("apps/db")


@pytest.mark.parametrize("default", ["8080", None, {"a": 1}])
def test_a_default_stands_in_for_a_missing_path(serve, default):
    serve(APPS)
    assert read("apps/db", "apps/name", default=default) == [default, "prod"]


def test_json_is_parsed_in_a_key_and_in_a_folder(serve):
    serve({"j/list": "[1, 2]", "j/deep/object": '{"a": null}', "j/deep": "true"})
    assert read("j", "j/list", json=True) == [{"list": [1, 2], "deep": {"": True, "object": {"a": None}}}, [1, 2]]


@pytest.mark.parametrize("text", ["", "{", "s3cret", "[" * 100_000])
def test_a_value_that_is_no_json_names_its_key_and_does_not_show_itself(serve, text):
    serve({"j/good": "1", "j/bad": text})
    with pytest.raises(AnsibleError, match="key 'j/bad' is not JSON") as caught:
        read("j", json=True)
    assert "s3cret" not in str(caught.value)


def test_bytes_that_are_no_text_do_not_hide_the_other_keys(serve):
    serve({"a/bytes": b"\xff\x00", "a/text": "x"})
    assert read("a") == [{"bytes": "\ufffd\x00", "text": "x"}]


def test_a_value_that_looks_like_a_template_stays_text(serve, tmp_path):
    serve({"a/b": "{{ 1 + 1 }}", "a/c": "[\"{{ lookup('pipe', 'touch pwned') }}\"]"})
    assert template("{{ lookup('vdloo.mesh.kv', 'a/b') }}") == "{{ 1 + 1 }}"
    assert template("{{ lookup('vdloo.mesh.kv', 'a').b }} {{ lookup('vdloo.mesh.kv', 'a/c', json=true)[0] }}").startswith(
        "{{ 1 + 1 }} {{ lookup("
    )
    assert template("{{ later }}", later=read("a/b")[0]) == "{{ 1 + 1 }}"


def test_a_play_that_hands_a_value_on_never_evaluates_it(serve, tmp_path):
    agent = serve({"a": "{{ 1 + 1 }}", "folder/{{ 1 + 2 }}": "{{ 1 + 3 }}"})
    (tmp_path / "ansible.cfg").touch()
    finished = subprocess.run(
        [
            Path(sys.executable).parent / "ansible",
            *("localhost", "-m", "ansible.builtin.debug", "-e", json.dumps({"kept": "{{ lookup('vdloo.mesh.kv', 'a') }}"})),
            *("-a", 'msg=\'{{ kept }} {{ query("vdloo.mesh.kv", "folder") }}\''),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "CONSUL_HTTP_ADDR": agent.address,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "{{ 1 + 1 }} [{'{{ 1 + 2 }}': '{{ 1 + 3 }}'}]" in finished.stdout


# ---------------------------------------------------------------- the agent


def test_without_a_leader_it_still_answers(serve):
    serve(APPS).leader = False
    assert read("apps/name") == ["prod"]


def test_who_wants_the_leaders_word_is_told_that_there_is_none(serve):
    serve(APPS).leader = False
    with pytest.raises(AnsibleError, match="cannot read 'apps/name'.*No cluster leader"):
        read("apps/name", stale=False)


def test_the_token_comes_from_the_environment_or_the_call(serve, monkeypatch):
    serve(APPS).token = "s3cret"
    with pytest.raises(AnsibleError, match="403 Permission denied"):
        read("apps/name")
    assert read("apps/name", consul_token="s3cret") == ["prod"]
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "s3cret")
    assert read("apps/name") == ["prod"]


def test_an_agent_that_is_not_there_is_named():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(AnsibleError, match=f"cannot read 'a'.*{address}.*refused"):
            read("a", consul_addr=address)


def test_an_agent_that_hangs_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(AnsibleError, match="no answer in time"):
        read("a", consul_addr=f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "http://127.0.0.1:8500/ui"])
def test_an_address_that_is_none_says_what_to_write(address):
    with pytest.raises(AnsibleError, match=r"write 127\.0\.0\.1:8500"):
        read("a", consul_addr=address)


def test_a_path_that_is_no_text_is_refused(serve):
    serve(APPS)
    with pytest.raises(AnsibleError, match="7 is not a path"):
        read(7)


# ---------------------------------------------------------------- from outside the mesh


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """An ssh that runs the command here, and fails for the host down.example."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in *down.example*) echo "down.example: no route" >&2; exit 255;; esac\n'
        "for last; do :; done\n"
        f'echo "$*" >> {tmp_path}/calls\n'
        'exec sh -c "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "calls"


def test_from_outside_the_first_node_that_answers_is_asked(serve, ssh):
    serve(APPS)
    found = read("apps/web", bootstrap=["root@down.example", "root@up.example:2222"], bootstrap_ssh_args="-i key", consul_token="s3cret")
    assert found == [{"port": "8080", "tls": {"certificate": "/etc/ssl/web.pem"}, "empty": ""}]
    called = ssh.read_text()
    assert called.startswith("-i key ") and "-p 2222 root@up.example" in called
    assert "s3cret" not in called


def test_from_outside_an_odd_key_is_read_as_well(serve, ssh):
    serve({"odd/100% ü?": "here"})
    assert read("odd/100% ü?", bootstrap=["up.example"]) == ["here"]


def test_from_outside_a_missing_path_is_an_error_or_the_default(serve, ssh):
    serve(APPS)
    assert read("no/such", bootstrap=["up.example"], default="x") == ["x"]
    with pytest.raises(AnsibleError, match="nothing at 'no/such'"):
        read("no/such", bootstrap=["up.example"])


def test_from_outside_an_agent_that_does_not_answer_is_told_of_with_its_node(ssh, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(AnsibleError, match="cannot read 'a': up.example: .*refused"):
            read("a", bootstrap=["up.example"], consul_addr=f"127.0.0.1:{closed.getsockname()[1]}")


def test_from_outside_no_node_is_an_error_that_names_them_all(ssh):
    with pytest.raises(AnsibleError, match="root@down.example: .*no route"):
        read("a", bootstrap=["root@down.example"])
