# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is kept of the services: the whole of it, only from a Consul that knows it, and over a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import snapshot, watch
from fake_names import WEB, catalog
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@pytest.fixture
def kept(names, monkeypatch):
    """A watch whose answerer knows nothing yet."""
    names.answerer.snapshot = None
    for name in ("PAUSE_S", "RETRY_S", "LONGEST_RETRY_S", "CHECK_AGAIN_S"):
        monkeypatch.setattr(watch, name, 0.02)
    return watch.Watch(names.answerer)


def keep(kept, seconds: float = 0.4, check: bool = False) -> None:
    """Let it work for a while."""

    async def run() -> None:
        work = [kept.keep(), kept.check()] if check else [kept.keep()]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*work), seconds)
        kept.agent.close()

    # Events belong to the loop in which they are made.
    kept._again, kept._returned = asyncio.Event(), asyncio.Event()
    asyncio.run(run())


def on_disk(kept) -> dict:
    """The file, but for the time at which it was last seen to be right: that is written once in a while only."""
    with open(kept.path, encoding="utf-8") as stream:
        return {**json.load(stream), "confirmed": 0}


def in_memory(kept) -> dict:
    return {**kept.answerer.snapshot.content, "confirmed": 0}


def services(kept) -> set[str]:
    return set(kept.answerer.snapshot.services) if kept.answerer.snapshot else set()


def test_all_healthy_instances_of_all_services_are_kept(kept):
    keep(kept)
    found = kept.answerer.snapshot
    assert {name: [(one.node, one.address, one.port, one.tags) for one in entries] for name, entries in found.services.items()} == {
        "web": [("n1", "fc00::1", 8080, ["blue"]), ("n2", "fc00::2", 8080, [])],
        "consul": [("n1", "fc00::1", 8300, [])],
        "db": [("n3", "192.0.2.7", 5432, [])],
    }
    assert found.nodes == {"n1": ("fc00::1", True), "n2": ("fc00::2", True), "n3": ("fc00::3", True)}
    assert (found.datacenter, found.index, kept.problem) == ("mesh", 10, "")


def test_an_instance_on_a_node_that_is_not_well_is_not_kept():
    sick = catalog(("n1", "fc00::1", [("web", 80, "", None, "passing")]), ("n2", "fc00::2", [("web", 80, "", None, "passing")]))
    sick[1]["Checks"][0]["Status"] = "critical"
    found = snapshot.build(sick, "mesh", 1)
    assert [one.node for one in found.services["web"]] == ["n1"]
    assert set(found.nodes) == {"n1", "n2"}


def test_it_survives_a_restart_and_is_for_all_to_see_whole(kept, names):
    keep(kept)
    assert on_disk(kept) == in_memory(kept)
    assert os.listdir(os.path.dirname(kept.path)).count("snapshot.json") == 1
    names.answerer.snapshot = None
    again = watch.Watch(names.answerer)
    names.stop()
    again.restore()
    assert names.addresses("web.service.consul") == {"fc00::1", "fc00::2"}


def test_what_a_killed_write_left_is_cleared_away(kept):
    leftover = os.path.join(os.path.dirname(kept.path), ".snapshot.json-abc")
    with open(leftover, "w", encoding="utf-8"):
        pass
    kept.restore()
    assert not os.path.exists(leftover)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', '{"services": 5, "nodes": []}', "[" * 100000])
def test_a_damaged_file_is_told_and_harms_nothing(kept, text, capsys):
    with open(kept.path, "w", encoding="utf-8") as stream:
        stream.write(text)
    kept.restore()
    assert "cannot be used" in kept.problem and kept.problem in capsys.readouterr().err
    assert kept.answerer.snapshot is None
    keep(kept)
    assert (services(kept), kept.problem) == ({"web", "consul", "db"}, "")


@given(JSON)
def test_any_json_is_a_snapshot_or_refused(content):
    with contextlib.suppress(snapshot.SnapshotError):
        snapshot.Snapshot(content)
    with contextlib.suppress(snapshot.SnapshotError):
        snapshot.build(content, "mesh", 1)
    with contextlib.suppress(snapshot.SnapshotError):
        snapshot.build([{**WEB[0], "Services": content}], "mesh", 1)


def test_without_a_leader_nothing_is_taken_up(kept, fake):
    fake.leader = False
    keep(kept)
    assert services(kept) == set() and "no leader" in kept.problem
    assert not os.path.exists(kept.path)


def test_a_server_that_has_heard_of_no_leader_for_long_is_not_believed(kept, fake):
    fake.last_contact = 60_000
    keep(kept)
    assert services(kept) == set()


@pytest.mark.parametrize(
    "bad",
    [[], {}, None, [{}], catalog(("n1", "fc00::1", [])), [{**WEB[0], "Checks": []}]],
    ids=["empty", "no list", "null", "no node", "no service", "no member"],
)
def test_a_bad_answer_never_replaces_a_good_one(kept, fake, bad):
    keep(kept)
    before = in_memory(kept)
    fake.catalog, fake.index = bad, 11
    keep(kept)
    assert in_memory(kept) == on_disk(kept) == before
    assert "not refreshed" in kept.problem


def test_the_older_catalog_of_a_server_that_has_just_started_waits(kept, fake, monkeypatch):
    keep(kept)
    fake.catalog, fake.index = WEB[:1], 3
    keep(kept)
    assert services(kept) == {"web", "consul", "db"} and "older" in kept.problem
    # And is taken up if it goes on, as after a restore from a backup.
    monkeypatch.setattr(watch, "OLDER_FOR_S", 0.1)
    keep(kept, 1)
    assert services(kept) == {"web", "consul"} and kept.answerer.snapshot.index == 3


def test_a_change_is_taken_up_and_a_service_that_is_gone_goes(kept, fake):
    keep(kept)
    fake.catalog, fake.index = WEB[:2], 11
    keep(kept)
    assert services(kept) == {"web", "consul"}
    with open(kept.path, encoding="utf-8") as stream:
        assert set(json.load(stream)["services"]) == {"web", "consul"}


def test_an_unchanged_catalog_is_waited_for_and_not_written_again(kept, fake):
    keep(kept)
    written, first = os.stat(kept.path).st_mtime_ns, kept.answerer.snapshot.content
    keep(kept, 1)
    assert os.stat(kept.path).st_mtime_ns == written
    assert kept.answerer.snapshot.confirmed > first["confirmed"] and kept.answerer.snapshot.taken == first["taken"]
    assert sum("index=0&" in call for call in fake.calls) == 1


def test_that_it_still_holds_is_written_once_in_a_while(kept, monkeypatch):
    keep(kept)
    monkeypatch.setattr(watch, "WRITE_EVERY_S", 0.0)
    keep(kept, 1)
    with open(kept.path, encoding="utf-8") as stream:
        assert json.load(stream)["confirmed"] > kept.answerer.snapshot.taken


def test_a_file_that_cannot_be_written_is_told_and_the_snapshot_holds(kept, tmp_path):
    kept.path = str(tmp_path / "nowhere" / "snapshot.json")
    keep(kept)
    assert "is not written" in kept.problem
    assert services(kept) == {"web", "consul", "db"}


def test_it_is_bounded(monkeypatch):
    monkeypatch.setattr(snapshot, "MAX_INSTANCES", 3)
    assert snapshot.build(WEB, "mesh", 1).left_out == 1
    monkeypatch.setattr(snapshot, "MAX_SERVICES", 1)
    found = snapshot.build(WEB, "mesh", 1)
    assert (len(found.services), found.left_out) == (1, 3)
    monkeypatch.setattr(snapshot, "MAX_NODES", 1)
    assert len(snapshot.build(WEB, "mesh", 1).nodes) == 1


def test_a_clock_that_was_set_back_makes_nothing_old():
    found = snapshot.build(WEB, "mesh", 1)
    found.confirmed = time.time() + 1e6
    assert found.age() == 0


# ---------------------------------------------------------------- whether Consul can be asked


def test_the_state_is_told_once_when_it_changes(kept, fake, capsys):
    fake.dns = {("consul.service.consul", 255): [b"\xfc" + bytes(15)]}
    keep(kept, check=True)
    assert (kept.stale, capsys.readouterr().err) == (False, "Consul answers\n")
    fake.leader = False
    keep(kept, 1, check=True)
    told = capsys.readouterr().err
    assert kept.stale and told == "Consul cannot be asked for all names (the agent knows no leader): what was last known is answered\n"
    fake.leader = True
    keep(kept, 1, check=True)
    assert (kept.stale, capsys.readouterr().err) == (False, "Consul answers\n")
    assert kept.problem == ""


def test_a_consul_that_came_back_is_read_at_once(kept, fake, monkeypatch):
    keep(kept)
    monkeypatch.setattr(watch, "RETRY_S", 30)
    monkeypatch.setattr(watch, "LONGEST_RETRY_S", 30)
    kept._retry = 30

    async def run() -> None:
        fake.leader = False
        work = asyncio.ensure_future(asyncio.gather(kept.keep(), kept.check()))
        await asyncio.sleep(0.6)
        assert kept.stale and "no leader" in kept.problem
        fake.leader, fake.catalog, fake.index = True, WEB[:1], 12
        fake.dns = {("consul.service.consul", 255): [b"\xfc" + bytes(15)]}
        kept._again.set()
        await asyncio.sleep(0.6)
        work.cancel()

    kept._again, kept._returned = asyncio.Event(), asyncio.Event()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(run())
    assert not kept.stale and services(kept) == {"web", "consul"}
