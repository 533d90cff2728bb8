# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import socketserver
import ssl
import threading
import time
import urllib.parse

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client as consul
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st


class Agent(http.server.BaseHTTPRequestHandler):
    """Answers with what the test put under the path, and notes what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server.state
        server.asked.append((self.command, self.path, dict(self.headers), self.connection))
        length = int(self.headers.get("Content-Length", 0))
        server.bodies.append(self.rfile.read(length))
        answer = server.answers.get(urllib.parse.urlsplit(self.path).path, (404, b""))
        if callable(answer):
            answer(self)
            return
        status, body, *headers = answer
        self.send_response(status)
        for name, value in headers[0].items() if headers else ():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *_args):
        """Say nothing."""

    def address_string(self):
        return "test"


class State:
    def __init__(self):
        self.answers, self.asked, self.bodies = {}, [], []


@pytest.fixture
def agent():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    server.state = State()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.state.addr = f"127.0.0.1:{server.server_address[1]}"
    yield server.state
    server.shutdown()
    server.server_close()


def entry(key, value):
    return {"Key": key, "Value": None if value is None else base64.b64encode(value).decode(), "ModifyIndex": 7, "Flags": 0}


def test_members_and_the_agent_itself_are_what_it_answers(agent):
    agent.answers = {"/v1/agent/members": (200, b'[{"Name": "n1"}]'), "/v1/agent/self": (200, b'{"Config": {"NodeName": "n1"}}')}
    client = consul.Client(agent.addr)
    assert client.members() == [{"Name": "n1"}]
    assert client.myself() == {"Config": {"NodeName": "n1"}}


def test_calls_share_one_connection_and_carry_the_token(agent):
    agent.answers = {"/v1/agent/members": (200, b"[]")}
    client = consul.Client(agent.addr, token="s3cret")
    client.members()
    client.members()
    assert len({connection for _method, _path, _headers, connection in agent.asked}) == 1
    assert {headers["X-Consul-Token"] for _method, _path, headers, _connection in agent.asked} == {"s3cret"}
    assert "s3cret" not in "".join(path for _method, path, _headers, _connection in agent.asked)


def test_a_connection_that_the_agent_closed_meanwhile_is_made_anew(agent):
    def answer_and_close(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"[]")
        handler.close_connection = True

    agent.answers = {"/v1/agent/members": answer_and_close}
    client = consul.Client(agent.addr)
    assert client.members() == []
    time.sleep(0.1)
    assert client.members() == []


def test_a_put_is_never_sent_twice(agent):
    def take_and_hang_up(handler):
        handler.close_connection = True
        handler.connection.close()

    agent.answers = {"/v1/agent/members": (200, b"[]"), "/v1/kv/a": take_and_hang_up}
    client = consul.Client(agent.addr)
    client.members()
    with pytest.raises(consul.ClientError, match="PUT .*/v1/kv/a"):
        client.put("/v1/kv/a", b"1")
    assert [method for method, _path, _headers, _connection in agent.asked].count("PUT") == 1


def test_a_put_sends_its_body_and_returns_the_answer(agent):
    agent.answers = {"/v1/kv/a": (200, b"true"), "/v1/kv/b": (200, b""), "/v1/kv/c": (500, b"No cluster leader")}
    client = consul.Client(agent.addr)
    assert client.put("/v1/kv/a", b"value", {"flags": "0"}) is True
    assert agent.bodies == [b"value"]
    assert client.put("/v1/kv/b") is None
    with pytest.raises(consul.ClientError, match="500 No cluster leader"):
        client.put("/v1/kv/c")


def test_the_kv_is_read_below_a_prefix_and_any_server_may_answer(agent):
    agent.answers = {"/v1/kv/a/b": (200, json.dumps([entry("a/b", b"1"), entry("a/bc", None), entry("a/b/d", b"\xff\xc3\xa9")]).encode())}
    assert consul.Client(agent.addr).kv("a/b") == {"a/b": "1", "a/bc": "", "a/b/d": "\ufffdé"}
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(agent.asked[0][1]).query, keep_blank_values=True) == {"recurse": [""], "stale": [""]}
    assert consul.Client(agent.addr).kv("nothing/here") == {}
    assert consul.Client(agent.addr).kv_keys("nothing/here") == []


def test_how_fresh_an_answer_is_is_told(agent):
    headers = {"X-Consul-Index": "42", "X-Consul-Knownleader": "false", "X-Consul-Lastcontact": "1500"}
    agent.answers = {"/v1/catalog/services": (200, b"{}", headers)}
    assert consul.Client(agent.addr).get("/v1/catalog/services", {"stale": ""}) == ({}, 42, False, 1500)


def test_a_blocking_query_waits_for_the_index_and_starts_anew_when_it_went_back(agent):
    agent.answers = {"/v1/kv/a": (200, b"[]", {"X-Consul-Index": "8"})}
    client = consul.Client(agent.addr)
    assert client.watch("/v1/kv/a", index=7, wait_s=2.5).index == 8
    assert "index=7&wait=2500ms" in agent.asked[0][1]
    assert client.watch("/v1/kv/a", index=9, wait_s=1).index == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b"{}", "not what Consul"),
    ],
)
def test_an_answer_that_is_none_is_an_error(agent, body, told):
    agent.answers = {"/v1/agent/members": (200, body)}
    with pytest.raises(consul.ClientError, match=told):
        consul.Client(agent.addr).members()


def test_an_answer_of_ten_megabytes_is_not_taken(agent):
    agent.answers = {"/v1/agent/members": (200, b"[" + b" " * 10 * 1024 * 1024 + b"]")}
    with pytest.raises(consul.TooBig, match="longer than 8388608 bytes"):
        consul.Client(agent.addr).members()


def test_an_answer_that_drips_in_ends_with_the_time_of_the_call(agent):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _second in range(50):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.1)

    agent.answers = {"/v1/agent/members": drip}
    start = time.monotonic()
    with pytest.raises(consul.ClientError, match="no answer in time"):
        consul.Client(agent.addr, timeout=0.6).members()
    assert time.monotonic() - start < 2


def test_an_agent_that_is_not_there_is_an_error_that_names_the_call():
    with pytest.raises(consul.ClientError, match=r"GET http://127\.0\.0\.1:1/v1/agent/members: .*refused"):
        consul.Client("http://127.0.0.1:1").members()


def test_a_proxy_of_the_environment_is_not_asked(agent, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    agent.answers = {"/v1/agent/members": (200, b"[]")}
    assert consul.Client(agent.addr).members() == []


def test_an_agent_on_a_unix_socket_answers(tmp_path):
    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    path = tmp_path / "consul.sock"
    server = Server(str(path), Agent)
    server.state = State()
    server.state.answers = {"/v1/agent/members": (200, b"[]")}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert consul.Client(f"unix://{path}").members() == []
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def tls_agent(agent, tmp_path):
    """The agent over TLS; its certificate, which is its own authority, is in tmp_path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.state = agent
    agent.answers = {"/v1/agent/members": (200, b"[]")}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_over_tls_the_certificate_is_checked(tls_agent, tmp_path):
    assert consul.Client(tls_agent, ca_file=str(tmp_path / "cert.pem")).members() == []
    with pytest.raises(consul.ClientError, match="certificate"):
        consul.Client(tls_agent).members()
    assert consul.Client(tls_agent, verify=False).members() == []


def test_certificate_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(consul.ClientError, match="missing.pem"):
        consul.Client("https://127.0.0.1:8501", ca_file=str(tmp_path / "missing.pem"))


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("127.0.0.1:8500", ("http", "127.0.0.1", 8500)),
        ("localhost", ("http", "localhost", 8500)),
        ("http://[::1]:8501", ("http", "::1", 8501)),
        ("https://consul.example/", ("https", "consul.example", 8500)),
        ("unix:///run/consul.sock", ("unix", "/run/consul.sock", 0)),
    ],
)
def test_an_address_is_read_as_consul_writes_it(written, parts):
    assert consul.split_addr(written) == parts


@pytest.mark.parametrize(
    "written",
    ["", "unix://run", "ftp://127.0.0.1", "127.0.0.1:port", "http://127.0.0.1:99999", "http://a/v1", "http://u:p@a", "::1", "http://[::1"],
)
def test_an_address_that_is_none_says_what_to_write(written):
    with pytest.raises(ValueError, match="write 127.0.0.1:8500"):
        consul.split_addr(written)


@given(st.text(max_size=40))
def test_any_address_is_read_or_refused(written):
    try:
        scheme, host, port = consul.split_addr(written)
    except ValueError:
        return
    assert scheme in ("http", "https", "unix") and host and 0 <= port < 65536
