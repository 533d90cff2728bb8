# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import socket
import time

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import collector
from fake_mesh import free_port
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def door():
    """A port of ::1 that takes connections."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        yield server.getsockname()[1]


def at(port, address="::1", state="member"):
    return {"address": address, "state": state, "ssh": {"port": port}}


def test_who_takes_a_connection_answers(door):
    closed = free_port(socket.SOCK_STREAM)
    assert collector.knock({"n1": at(door), "n2": at(closed, "::1")}, 2) == ["::1"]
    assert collector.knock({"n1": at(door, state="left"), "n2": at(closed)}, 2) == []


def test_who_is_known_to_be_alive_is_not_knocked_at(door):
    members = {"members": [{"address": "::1", "status": 1}, {"address": "::2", "status": 4}, {"address": None, "status": 1}]}
    assert collector.alive(members) == {"::1"}
    assert collector.alive(None) == set()
    assert collector.knock({"n1": at(door)}, 2, collector.alive(members)) == []
    assert collector.knock({"n1": at(door)}, 2, {"::2"}) == ["::1"]


def test_damaged_records_are_not_knocked_at(door):
    assert collector.knock(
        {"a": None, "b": {}, "c": at("22"), "d": at(door, "127.0.0.1"), "e": at(door, "localhost"), "f": at(door)}, 2
    ) == ["::1"]


@given(
    st.dictionaries(
        st.text(), st.none() | st.integers() | st.dictionaries(st.sampled_from(["address", "state", "ssh"]), st.text() | st.none())
    )
)
def test_whatever_the_registry_holds_knocking_ends(registry):
    assert collector.knock(registry, 0.2) == []


def test_a_thousand_nodes_that_do_not_answer_cost_no_more_than_the_time(monkeypatch):
    def never(_address, timeout):
        time.sleep(timeout)
        raise socket.timeout

    monkeypatch.setattr(socket, "create_connection", never)
    start = time.monotonic()
    assert collector.knock({f"n{number}": at(22) for number in range(1000)}, 0.5) == []
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("text", "told"), [("{", "not valid JSON"), ("[]", "JSON object"), ("[" * 200_000, "not valid JSON")])
def test_a_registry_file_that_is_damaged_is_an_error_of_that_source(tmp_path, text, told):
    path = tmp_path / "registry.json"
    path.write_text(text)
    reply = collector.collect({"timeout": 1, "registry_file": str(path)})
    assert reply["answers"] == {} and told in reply["errors"]["registry"]


def test_a_registry_file_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"a": "x" * collector.MAX_FILE_BYTES}))
    assert "longer than" in collector.collect({"timeout": 1, "registry_file": str(path)})["errors"]["registry"]


def test_no_settings_are_no_error_and_damaged_ones_are(tmp_path):
    path = tmp_path / "settings.json"
    assert collector.collect({"timeout": 1, "settings_file": str(path)})["answers"] == {"settings": {}}
    path.write_text('{"version": 1}')
    assert collector.collect({"timeout": 1, "settings_file": str(path)})["answers"] == {"settings": {"version": 1}}
    path.write_text("{")
    assert "is not valid JSON" in collector.collect({"timeout": 1, "settings_file": str(path)})["errors"]["settings"]
