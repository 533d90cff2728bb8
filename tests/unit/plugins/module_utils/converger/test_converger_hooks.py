# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The user's hooks: which are found, and how they run."""

from __future__ import annotations

import json
import os
import stat
import threading
import time

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import config, hook_runner, hooks, membership
from hypothesis import given
from hypothesis import strategies as st

LEFT = membership.Event("node_left", "n2")
TOLD = {"self": "n1", "alive": 2, "minimum": 3, "members": {"n1": "alive", "n2": "failed"}}


@pytest.fixture
def node(nodes):
    return nodes("n1")


@pytest.fixture
def run(node):
    """A function that runs the hooks of events on the node; it returns {hook: outcome}, and has the words in `words`."""
    words: list[str] = []

    def work(*events, here=False, watch=str, **settings):
        words.clear()
        read = config.load(str(node.config))[0]._replace(**settings)
        runner = hook_runner.Runner(read, str(node.playbook), TOLD, watch, words.append)
        outcomes = runner.run_here(events[0]) if here else runner.run(events or (LEFT,))
        return {f"{told['event']}/{told['name']}": told["outcome"] for told in outcomes}

    work.words = words
    return work


def note(path, first=""):
    told = "$VDLOO_MESH_EVENT $VDLOO_MESH_ABOUT $VDLOO_MESH_SELF $VDLOO_MESH_ALIVE $VDLOO_MESH_MINIMUM"
    return f'#!/bin/sh\necho "{first}{told}" >>{path}\n'


# ---------------------------------------------------------------- how they run


def test_hooks_run_in_the_order_of_their_names_and_are_told_what_has_happened(node, run, tmp_path):
    for name in ("20-b", "10-a", "30-c"):
        node.hook(
            "node_left",
            name,
            note(tmp_path / "out", f"{name} "),
        )
    node.hook("node_joined", "other", note(tmp_path / "out"))
    assert list(run().items()) == [("node_left/10-a", "ok"), ("node_left/20-b", "ok"), ("node_left/30-c", "ok")]
    assert (tmp_path / "out").read_text().splitlines() == [f"{name} node_left n2 n1 2 3" for name in ("10-a", "20-b", "30-c")]


def test_a_hook_reads_the_rest_as_json(node, run, tmp_path):
    node.hook("node_left", "read", f"#!/bin/sh\ncat >{tmp_path}/out\n")
    run()
    assert json.loads((tmp_path / "out").read_text()) == {**TOLD, "event": "node_left", "about": "n2"}


def test_a_hook_has_nothing_of_the_run_but_what_it_is_given(node, run, tmp_path, monkeypatch):
    monkeypatch.setenv("ANSIBLE_CHECK_MODE", "1")
    descriptor = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(descriptor, True)
    node.hook("node_left", "look", f"#!/bin/sh\nenv >{tmp_path}/env; pwd >{tmp_path}/pwd; ls /proc/self/fd | sort >{tmp_path}/fds\n")
    run()
    os.close(descriptor)
    environment = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert "ANSIBLE_CHECK_MODE" not in environment
    assert environment["ANSIBLE_CONFIG"] == node.settings["ansible_cfg"]
    assert "VDLOO_MESH_SUMMARY" not in environment
    assert (tmp_path / "pwd").read_text() == "/\n"
    assert str(descriptor) not in (tmp_path / "fds").read_text().split()


def test_what_a_hook_says_is_said_up_to_a_limit(node, run):
    node.hook("node_left", "talk", "#!/bin/sh\necho hello; printf 'a\\033b\\n'; yes | head -c 100000 2>&1; exit 3\n")
    assert run() == {"node_left/talk": "failed"}
    assert run.words[:2] == ["  hello", "  a b"]
    assert run.words[-2:] == ["  ... and more, which is not shown", run.words[-1]]
    assert run.words[-1].endswith(": it ended with 3")
    assert sum(map(len, run.words)) < 4 * hook_runner.MOST_OUTPUT


def test_a_hook_that_fails_keeps_no_other_from_running(node, run, tmp_path):
    node.hook("node_left", "1", "#!/bin/sh\nexit 1\n")
    node.hook("node_left", "2", "this is no program\n")
    node.hook("node_left", "3", "#!/nowhere/interpreter\n")
    node.hook("node_left", "4", note(tmp_path / "out"))
    assert run() == {"node_left/1": "failed", "node_left/2": "failed", "node_left/3": "failed", "node_left/4": "ok"}
    assert node.hooks == run()


def test_a_predicate_says_whether_a_hook_runs(node, run, tmp_path):
    node.hook("node_left", "no", note(tmp_path / "out"), when="#!/bin/sh\nexit 1\n")
    node.hook("node_left", "yes", note(tmp_path / "out"), when='#!/bin/sh\ntest "$VDLOO_MESH_ABOUT" = n2 && grep -q failed\n')
    assert run() == {"node_left/yes": "ok"}
    assert "hook node_left/no: its predicate says no (1)" in run.words
    assert len((tmp_path / "out").read_text().splitlines()) == 1


def pids_of(path):
    return [int(pid) for pid in path.read_text().split()]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(") ")[2].split()[0] not in "ZX"
    except OSError:
        return False


FORKS = """#!/bin/sh
# One that is an orphan in the group of the hook, and one that does not listen.
(sleep 600 & echo $! >>{out})
(trap '' TERM; echo $$ >/dev/null; sh -c 'trap "" TERM; echo $$ >>{out}; sleep 600; sleep 600') &
sleep 0.3
{then}
"""


@pytest.mark.parametrize("where", ["hook", "when"])
def test_after_its_time_a_hook_is_killed_with_all_that_it_has_started(node, run, tmp_path, monkeypatch, where):
    monkeypatch.setattr(hook_runner, "GRACE_S", 0.3)
    text = FORKS.format(out=tmp_path / "pids", then="sleep 600")
    quick = "#!/bin/sh\nexit 0\n"
    hook, when = (text, quick) if where == "hook" else (quick, text)
    node.hook("node_left", "hang", hook, when=when, json='{"timeout_s": 1}')
    node.hook("node_left", "next", quick)
    begun = time.monotonic()
    assert run() == {"node_left/hang": "timed out", "node_left/next": "ok"}
    assert time.monotonic() - begun < 10
    assert len(pids_of(tmp_path / "pids")) == 2
    assert not any(map(is_alive, pids_of(tmp_path / "pids")))


def test_what_a_hook_leaves_behind_ends_with_it_and_is_not_waited_for(node, run, tmp_path):
    node.hook("node_left", "fork", FORKS.format(out=tmp_path / "pids", then="exit 0"))
    begun = time.monotonic()
    assert run() == {"node_left/fork": "ok"}
    assert time.monotonic() - begun < 10
    assert not any(map(is_alive, pids_of(tmp_path / "pids")))


def test_all_hooks_together_have_a_limit(node, run):
    for name in ("1", "2", "3"):
        node.hook("node_left", name, "#!/bin/sh\nexec sleep 600\n", json='{"timeout_s": 1}')
    begun = time.monotonic()
    assert run(hooks_timeout_s=1.5) == {"node_left/1": "timed out", "node_left/2": "timed out", "node_left/3": "stopped"}
    assert time.monotonic() - begun < 5
    assert run.words[-1].endswith("the hooks had 1.5 s in all, and these are over")


def test_a_stop_ends_a_hook_and_begins_no_other(node, run):
    stopped = threading.Event()
    threading.Timer(0.5, stopped.set).start()
    for name in ("1", "2"):
        node.hook("node_left", name, "#!/bin/sh\nexec sleep 600\n")
    begun = time.monotonic()
    assert run(watch=lambda: "stopped" if stopped.is_set() else "") == {"node_left/1": "stopped", "node_left/2": "stopped"}
    assert time.monotonic() - begun < 10


def test_a_playbook_runs_over_the_mesh_with_the_event_as_variables(node, run):
    path = node.hook("node_left", "rent.yml", "- hosts: localhost\n")
    assert run() == {"node_left/rent": "ok"}
    assert node.calls == ["-i " + node.settings["inventory"] + ' -e {"mesh_event": "node_left", "mesh_event_node": "n2"} ' + str(path)]
    assert node.environment["ANSIBLE_CONFIG"] == node.settings["ansible_cfg"]
    assert node.environment["VDLOO_MESH_ALIVE"] == "2"


def test_what_is_for_each_node_is_run_by_one_playbook_on_all_and_by_each_once(node, run, tmp_path):
    for name in ("a", "b"):
        node.hook("node_left", name, note(tmp_path / "out"), json='{"each_node": true}')
    node.hook("node_left", "once", note(tmp_path / "once"))
    assert run() == {"node_left/once": "ok", "node_left/each node": "ok"}
    assert node.calls == ["-i " + node.settings["inventory"] + ' -e {"mesh_event": "node_left", "mesh_event_node": "n2"} vdloo.mesh.hooks']
    assert not (tmp_path / "out").exists()
    assert run(LEFT, here=True) == {"node_left/a": "ok", "node_left/b": "ok"}
    assert len((tmp_path / "out").read_text().splitlines()) == 2
    assert len((tmp_path / "once").read_text().splitlines()) == 1


def test_how_hooks_went_is_kept_until_they_are_gone(node, run):
    path = node.hook("node_left", "bad", "#!/bin/sh\nexit 1\n")
    node.hook("node_joined", "good", "#!/bin/sh\n")
    run(LEFT, membership.Event("node_joined", "n3"))
    assert node.hooks == {"node_left/bad": "failed", "node_joined/good": "ok"}
    assert hook_runner.failed(hook_runner.load(str(node.folder / "state" / "hooks.json")))[0].startswith("hook node_left/bad: failed at 20")
    path.unlink()
    run(membership.Event("node_joined", "n3"))
    assert node.hooks == {"node_joined/good": "ok"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"event": "x"}}'])
def test_a_damaged_file_of_what_was_is_forgotten(node, run, text):
    (node.folder / "state" / "hooks.json").write_text(text)
    node.hook("node_left", "a", "#!/bin/sh\n")
    assert run() == node.hooks == {"node_left/a": "ok"}


# ---------------------------------------------------------------- which are found


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (lambda path: path.chmod(0o770), "others may write to it (chmod go-w mends that)"),
        (lambda path: path.chmod(0o707), "others may write to it"),
        (lambda path: os.chown(path, 12345, -1), "it belongs to another user (chown root"),
        (lambda path: (path.unlink(), path.symlink_to("/bin/true")), "put the file itself there, and no link"),
        (lambda path: (path.unlink(), path.mkdir()), "put the file itself there"),
        (lambda path: path.parent.chmod(0o777), "others may write to it"),
        (lambda path: path.parent.parent.chmod(0o777), "others may write to it"),
        (lambda path: path.with_name("bad.json").chmod(0o666), "others may write to it"),
        (lambda path: path.with_name("bad.when").chmod(0o722), "others may write to it"),
        (lambda path: path.with_name("bad.when").chmod(0o600), "bad.when is not executable"),
        (lambda path: path.with_name("bad.json").write_text("{"), "bad.json is not JSON"),
        (lambda path: path.with_name("bad.json").write_text("[]"), "write an object with timeout_s and each_node"),
        (lambda path: path.with_name("bad.json").write_text('{"time": 5}'), "time is not known: write an object with timeout_s"),
        (lambda path: path.with_name("bad.json").write_text('{"timeout_s": 0}'), "timeout_s is 0: write a number of seconds from 1"),
        (lambda path: path.with_name("bad.json").write_text('{"timeout_s": true}'), "timeout_s is True"),
        (lambda path: path.with_name("bad.json").write_text('{"each_node": "yes"}'), "each_node is 'yes': write true or false"),
    ],
)
def test_what_cannot_be_trusted_or_read_is_not_run_and_said(node, run, tmp_path, damage, advice):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = node.hook("node_left", "bad", note(tmp_path / "out"), when="#!/bin/sh\n", json="{}")
    damage(path)
    outcomes = run()
    assert set(outcomes.values()) == {"refused"}
    assert any(advice in word for word in run.words), run.words
    assert not (tmp_path / "out").exists()


def test_a_hook_that_is_refused_keeps_no_other_from_running(node, run, tmp_path):
    node.hook("node_left", "a", note(tmp_path / "out"), json="{")
    node.hook("node_left", "b", note(tmp_path / "out"))
    assert run() == {"node_left/a": "refused", "node_left/b": "ok"}


def test_what_is_no_hook_is_left_out_with_a_word(node, run, tmp_path):
    for name in (".hidden", "old~", "a.bak", "b.dpkg-old"):
        node.hook("node_left", name, note(tmp_path / "out"))
    node.hook("node_left", "c", note(tmp_path / "out"), mode=0o600)
    (node.folder / "hooks" / "node_left" / "nobody.json").write_text("{}")
    assert run() == {}
    assert len(run.words) == 6
    assert sum("hidden file or a backup" in word for word in run.words) == 4
    assert any("not executable (chmod 700" in word for word in run.words)
    assert any("belongs to no hook" in word for word in run.words)
    assert not (tmp_path / "out").exists()


def test_of_two_hooks_of_one_name_one_runs(node, run, tmp_path):
    node.hook("node_left", "a", note(tmp_path / "out"))
    node.hook("node_left", "a.yml", "[]")
    assert run() == {"node_left/a": "ok", "node_left/a.yml": "refused"}


def test_without_a_folder_there_are_no_hooks(run):
    assert run(*(membership.Event(name) for name in membership.EVENTS)) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
likely = st.fixed_dictionaries({}, optional={"timeout_s": json_values, "each_node": json_values})


@given(text=st.binary() | (json_values | likely).map(lambda value: json.dumps(value).encode()))
def test_any_settings_are_read_or_refused(tmp_path_factory, text):
    place = tmp_path_factory.getbasetemp() / "any-hooks" / "node_left"
    place.mkdir(parents=True, exist_ok=True)
    for folder in (place, place.parent):
        folder.chmod(0o700)
    for name, content in (("a", b"#!/bin/sh\n"), ("a.json", text)):
        (place / name).write_bytes(content)
        (place / name).chmod(0o700)
    found = hooks.find(str(place.parent), "node_left")
    assert [hook.name for hook in found.hooks] + list(found.refused) == ["a"]
    for hook in found.hooks:
        assert 1 <= hook.timeout_s <= 3600
        assert hook.each_node in (True, False)
    assert stat.S_ISREG(os.lstat(place / "a").st_mode)
