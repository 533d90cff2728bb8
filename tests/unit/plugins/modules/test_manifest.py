# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import file_set, files
from ansible_collections.vdloo.mesh.plugins.modules import manifest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the module runs as root")

# Stands in for systemctl: all units are in the state that the file says.
SYSTEMCTL = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
for unit in "$@"; do cat {state}; echo; done
"""
# Stands in for a daemon's own check: keeps what it was shown, and refuses one word.
JUDGE = """\
#!/bin/sh
echo run >> {base}/judged
rm -rf {base}/seen
cp -r "$1" {base}/seen
if grep -rn nonsense "$1" >&2; then exit 1; fi
"""
SECRET = '{\n  "key": "c2VjcmV0LXNlY3JldC1zZWNyZXQ="\n}\n'
KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


class Node:
    """A node below a directory of its own."""

    def __init__(self, base, capsys):
        self.base = base
        self.capsys = capsys
        self.etc = base / "etc"
        self.state = base / "state"
        self.state_of_services("inactive")
        for name, text in (("systemctl", SYSTEMCTL.format(state=base / "services")), ("judge", JUDGE.format(base=base))):
            (base / name).write_text(text)
            (base / name).chmod(0o755)

    def state_of_services(self, state, started=0.0):
        """Set the state of all services, and when they were started in seconds since the epoch."""
        microseconds = int((time.clock_gettime(time.CLOCK_MONOTONIC) - (time.time() - started)) * 1e6) if started else 0
        (self.base / "services").write_text(f"ActiveState={state}\nUnitFileState=enabled\nExecMainStartTimestampMonotonic={microseconds}\n")

    def manifest(self, conf="a = 1\n", **sections):
        judge = [str(self.base / "judge"), "%s"]
        return {
            "directories": [{"path": str(self.etc), "mode": "0750"}],
            "files": [
                {"path": str(self.etc / "first"), "content": "one\n"},
                {"path": str(self.etc / "conf"), "content": conf, "mode": "0640", "validate": judge},
            ],
            "services": [{"name": "web.service", "restart": [str(self.etc / "first")], "reload": [str(self.etc / "conf")]}],
            **sections,
        }

    def run(self, wanted=None, check=False, **options):
        arguments = {"role": "web", "state_dir": str(self.state), "_ansible_diff": True, "_ansible_check_mode": check, **options}
        if "state" not in options:
            arguments["manifest"] = self.manifest() if wanted is None else wanted
        with patch_module_args(arguments), pytest.raises(SystemExit):
            manifest.main()
        self.out = self.capsys.readouterr().out
        return json.loads(self.out)

    def tree(self):
        """All files of the role with content and mode."""
        return {str(path.relative_to(self.etc)): (path.read_text(), mode(path)) for path in sorted(self.etc.rglob("*")) if path.is_file()}

    def judged(self):
        return len((self.base / "judged").read_text().splitlines()) if (self.base / "judged").exists() else 0

    def paths(self, *names):
        return [str(self.etc / name) for name in names]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def node(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Node(tmp_path, capsys)


def test_all_is_made_and_a_second_run_changes_and_validates_nothing(node):
    first = node.run()
    assert first["changed_paths"] == [str(node.etc), *node.paths("first", "conf")]
    assert first["validated"] == node.paths("conf")
    assert node.tree() == {"first": ("one\n", 0o644), "conf": ("a = 1\n", 0o640)}
    assert mode(node.etc) == 0o750
    second = node.run()
    assert (second["changed"], second["changed_paths"], second["diff"]) == (False, [], [])
    assert node.judged() == 1


def test_a_wrong_mode_is_put_right_without_writing(node):
    node.run()
    path = node.etc / "conf"
    path.chmod(0o666)
    inode = path.stat().st_ino
    result = node.run()
    assert result["changed_paths"] == node.paths("conf")
    assert (mode(path), path.stat().st_ino, node.judged()) == (0o640, inode, 1)
    assert "0666" in result["diff"][0]["before"]
    assert "0640" in result["diff"][0]["after"]


def file(**entry):
    return {"files": [{"path": "/nowhere/x", "content": "", **entry}]}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (file(path="etc/x"), "'etc/x' is not an absolute path"),
        (file(path="/etc/../x"), "write /x"),
        (file(path="/x/"), "write /x"),
        ({"files": file()["files"] * 2}, "/nowhere/x is twice among the files"),
        ({**file(), "directories": [{"path": "/nowhere/x"}]}, "/nowhere/x is among the files and the directories"),
        (file(validate=["true"]), "validate has no %s"),
        (file(validate="true %s"), "validate is not a list of words"),
        (file(secret=True), "exactly one of content, secret and absent"),
        ({"files": [{"path": "/x"}]}, "exactly one of content, secret and absent"),
        ({"files": [{"path": "/x", "secret": "yes"}]}, "/x: secret is neither true nor false"),
        ({"files": [{"path": "/x", "secret": True}]}, "/x: its content is not among the secrets"),
        ({"files": [{"path": "/x", "absent": True, "validate": ["true", "%s"]}]}, "cannot be validated"),
        (file(content={"a": 1}), "content is dict and not text"),
        (file(mode=0o644), "the mode 420 is not an octal number in quotes"),
        (file(mode="u=rw"), "the mode 'u=rw' is not an octal number"),
        (file(owner="0"), "the owner '0' is not a name"),
        (file(source="x"), "files[0]: source is not known"),
        ({"file": []}, "file is not known"),
        ({"files": {"path": "/x"}}, "files is not a list"),
        ({"files": ["/x"]}, "files[0] is not a dictionary"),
        ({"services": [{"name": "web"}]}, "'web' is not the full name of a unit"),
        ({"services": [{"name": "web.service"}] * 2}, "web.service is twice among the services"),
        ({"services": [{"name": "web.service", "restart": ["x"]}]}, "web.service: restart: 'x' is not an absolute path"),
        ({"programs": [{"path": "/x"}]}, "/x: source is missing"),
        (
            {"programs": [{"path": "/nowhere/program", "source": "package"}]},
            "the program /nowhere/program of the manifest is not on the node",
        ),
        ({"checks": [{"directory": "/x", "command": ["true"]}]}, "command has no %s"),
        (file(), "/nowhere is not there for /nowhere/x"),
        (file(owner="has-no-account", group="has-no-group"), "the user has-no-account and the group has-no-group"),
    ],
)
def test_a_manifest_that_cannot_be_applied_is_refused_before_anything_is_changed(node, bad, told):
    wanted = node.manifest()
    for section, entries in bad.items():
        wanted[section] = entries + wanted.get(section, []) if isinstance(entries, list) else entries
    if told.startswith("the user"):
        wanted["directories"].append({"path": "/nowhere"})
    result = node.run(wanted)
    assert result["failed"]
    assert told in result["msg"]
    assert not node.etc.exists()
    assert not Path("/nowhere").exists()


def test_what_a_daemon_refuses_changes_no_file(node):
    node.run()
    before = node.tree()
    wanted = node.manifest("nonsense\n")
    wanted["files"][0]["content"] = "two\n"
    result = node.run(wanted)
    assert result["failed"]
    assert f"judge {node.etc}/conf` refuses the new {node.etc}/conf, so nothing was changed" in result["msg"]
    assert "1:nonsense" in result["msg"]
    assert str(node.state) not in result["msg"], "the staged path means nothing to a reader"
    assert node.tree() == before
    assert list((node.state / "staged").iterdir()) == []


def test_a_file_is_judged_with_the_new_files_that_it_includes(node):
    node.run(node.manifest(f"include {node.etc}/first; not {node.etc}/first-of-all\n"))
    staged, other = (node.base / "seen").read_text().split(";")
    assert staged.endswith(f"/files{node.etc}/first")
    assert other == f" not {node.etc}/first-of-all\n"
    assert node.tree()["conf"][0].startswith(f"include {node.etc}/first;")
    node.run(node.manifest(f"include {node.etc}/first; changed\n"))
    assert (node.base / "seen").read_text() == f"include {node.etc}/first; changed\n", "that one is in its place already"


def test_a_judge_that_is_not_installed_is_an_error_but_in_check_mode(node):
    (node.base / "judge").unlink()
    assert node.run(check=True)["validated"] == []
    result = node.run()
    assert f"{node.base}/judge is not on this node" in result["msg"]
    assert not node.etc.exists()


def test_a_judge_of_another_version_is_left_alone_in_check_mode_only(node):
    assert node.run(node.manifest("nonsense\n"), check=True, validate=False)["changed"]
    assert node.judged() == 0
    assert node.run(node.manifest("nonsense\n"), validate=False)["failed"]


def whole(node, *entries):
    check = {"directory": str(node.etc), "suffixes": [".json"], "command": [str(node.base / "judge"), "%s"]}
    return {"directories": [{"path": str(node.etc)}], "files": list(entries), "checks": [check]}


def test_a_whole_directory_is_judged_with_the_files_of_others(node):
    node.etc.mkdir()
    (node.etc / "theirs.json").write_text("theirs")
    (node.etc / "notes.txt").write_text("nonsense that no daemon reads")
    ours = [{"path": str(node.etc / "a.json"), "content": "a"}, {"path": str(node.etc / "b.json"), "secret": True, "mode": "0600"}]
    secrets = {str(node.etc / "b.json"): "b"}
    assert node.run(whole(node, *ours), secrets=secrets)["validated"] == [str(node.etc)]
    assert {path.name: path.read_text() for path in (node.base / "seen").iterdir()} == {
        "theirs.json": "theirs",
        "a.json": "a",
        "b.json": "b",
    }
    (node.etc / "theirs.json").write_text("nonsense")
    assert not node.run(whole(node, *ours), secrets=secrets)["changed"], "nothing of ours changes"
    result = node.run(whole(node, ours[0], {"path": ours[1]["path"], "absent": True}))
    assert f"{node.etc}/theirs.json:1:nonsense" in result["msg"]
    assert (node.etc / "b.json").exists()


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_in_the_place_of_a_file_is_refused(node, target):
    node.etc.mkdir()
    (node.base / "elsewhere").write_text("theirs")
    (node.etc / "conf").symlink_to(node.base / target)
    result = node.run()
    assert f"{node.etc}/conf is a link to {node.base}/{target}" in result["msg"]
    assert not (node.etc / "first").exists()
    assert (node.base / "elsewhere").read_text() == "theirs"


def test_a_directory_that_is_a_link_may_stay_one(node):
    (node.base / "elsewhere").mkdir()
    node.etc.symlink_to(node.base / "elsewhere")
    assert node.run()["changed"]
    assert node.etc.is_symlink()
    assert (node.base / "elsewhere" / "conf").exists()


@pytest.mark.parametrize("there_before", [False, True])
def test_a_write_that_fails_puts_everything_back(node, monkeypatch, there_before):
    if there_before:
        node.run()
    before = node.tree()
    record = node.state / "manifests" / "web.json"
    recorded = record.read_text() if there_before else None
    real = files.write

    def fail(path, *arguments):
        if path == str(node.etc / "conf"):
            raise OSError(28, "No space left on device")
        real(path, *arguments)

    monkeypatch.setattr(files, "write", fail)
    wanted = node.manifest("a = 2\n")
    wanted["files"][0].update(content="two\n", mode="0600")
    result = node.run(wanted)
    assert f"{node.etc}/conf could not be changed (No space left on device); what was changed before it was put back" in result["msg"]
    assert node.tree() == before
    assert node.etc.exists() is there_before
    assert (record.read_text() if record.exists() else None) == recorded


def test_what_was_there_before_can_be_put_back(node):
    node.run()
    before, recorded = node.tree(), (node.state / "manifests" / "web.json").read_text()
    wanted = node.manifest("a = 2\n")
    wanted["files"].append({"path": str(node.etc / "new" / "file"), "content": "new"})
    wanted["files"][0] = {"path": str(node.etc / "first"), "absent": True}
    wanted["directories"].append({"path": str(node.etc / "new")})
    assert node.run(wanted)["can_roll_back"]
    assert set(node.tree()) == {"conf", "new/file"}
    assert node.run(state="rolled_back", check=True)["changed"]
    assert set(node.tree()) == {"conf", "new/file"}
    result = node.run(state="rolled_back")
    assert sorted(result["changed_paths"]) == sorted(node.paths("first", "conf", "new", "new/file"))
    assert node.tree() == before
    assert not (node.etc / "new").exists()
    assert (node.state / "manifests" / "web.json").read_text() == recorded
    assert not node.run(state="rolled_back")["changed"]
    assert not node.run()["changed"]


def test_what_is_asked_for_until_further_notice_goes_with_its_entry_and_can_be_put_back(node):
    wanted = node.manifest()
    wanted["files"].append({"path": str(node.etc / "hook"), "content": "hook", "drop": True})
    wanted["files"].append({"path": str(node.etc / "kept"), "content": "kept"})
    node.run(wanted)
    (node.etc / "theirs").write_text("theirs")
    assert node.run(check=True)["changed_paths"] == node.paths("hook")
    assert (node.etc / "hook").exists()
    assert node.run()["changed_paths"] == node.paths("hook")
    assert set(node.tree()) == {"first", "conf", "kept", "theirs"}
    assert not node.run()["changed"]
    node.run(state="rolled_back")
    assert node.tree()["hook"] == ("hook", 0o644)


def test_what_somebody_put_in_the_place_of_a_file_that_goes_stays(node):
    wanted = node.manifest()
    wanted["files"].append({"path": str(node.etc / "hook"), "content": "hook", "drop": True})
    node.run(wanted)
    (node.etc / "hook").unlink()
    (node.etc / "hook").symlink_to("/bin/true")
    assert node.run()["changed_paths"] == []
    assert (node.etc / "hook").is_symlink()


def test_a_first_run_can_be_put_back_to_nothing_but_the_files_of_others(node):
    node.run()
    (node.etc / "theirs").write_text("theirs")
    assert node.run(state="rolled_back")["services"] == {
        "web.service": {"running": False, "enabled": True, "since": None, "restart": [], "reload": []}
    }
    assert node.tree() == {"theirs": ("theirs", 0o644)}
    assert list((node.state / "manifests").iterdir()) == []


def test_after_a_run_that_was_killed_before_the_restart_the_files_that_the_service_runs_with_come_back(node):
    node.run()
    before = node.tree()
    time.sleep(0.1)
    node.state_of_services("active", started=time.time())
    time.sleep(0.1)
    assert node.run(node.manifest("a = 2\n"))["services"]["web.service"]["reload"] == node.paths("conf")
    again = node.run(node.manifest("a = 2\n"))
    assert (again["changed"], again["can_roll_back"]) == (False, True)
    assert again["services"]["web.service"]["reload"] == node.paths("conf")
    wanted = node.manifest("a = 3\n")
    wanted["files"][0]["content"] = "two\n"
    node.run(wanted)
    node.run(state="rolled_back")
    assert node.tree() == before


def test_what_a_service_has_proven_is_not_put_back(node):
    node.run(node.manifest("a = 0\n"))
    node.run()
    time.sleep(0.1)
    node.state_of_services("active", started=time.time())
    proven = node.tree()
    result = node.run()
    assert (result["changed"], result["can_roll_back"]) == (False, False)
    assert list((node.state / "previous").iterdir()) == []
    time.sleep(0.1)
    node.run(node.manifest("a = 2\n"))
    node.run(state="rolled_back")
    assert node.tree() == proven


def test_a_running_service_is_told_what_it_has_not_read(node):
    node.run()
    time.sleep(0.1)
    node.state_of_services("active", started=time.time())
    time.sleep(0.1)
    wanted = node.manifest("a = 2\n")
    foreseen = node.run(wanted, check=True)["services"]["web.service"]
    assert (foreseen["restart"], foreseen["reload"]) == ([], node.paths("conf"))
    assert node.run()["services"]["web.service"]["reload"] == [], "check mode has written nothing"
    told = node.run(wanted)["services"]["web.service"]
    assert (told["running"], told["restart"], told["reload"]) == (True, [], node.paths("conf"))
    assert node.run(state="observed")["services"]["web.service"] == {**told, "since": pytest.approx(told["since"], abs=1)}


def test_check_mode_shows_all_and_writes_nothing(node):
    wanted = node.manifest()
    wanted["files"][1]["owner"] = "nobody-has-this-name"
    result = node.run(wanted, check=True)
    assert result["changed_paths"] == [str(node.etc), *node.paths("first", "conf")]
    assert [part["after"] for part in result["diff"] if part["after_header"] == str(node.etc / "conf")] == ["a = 1\n"]
    assert not node.etc.exists()
    assert not node.state.exists()
    assert node.run(node.manifest("nonsense\n"), check=True)["failed"]


def test_check_mode_foresees_what_a_run_changes(node):
    node.run()
    wanted = node.manifest("a = 2\n")
    assert node.run(wanted, check=True)["changed_paths"] == node.run(wanted)["changed_paths"]
    assert not node.run(wanted, check=True)["changed"]


def test_two_runs_do_not_meet(node):
    node.run()
    with files.locked(str(node.state / "manifest.lock"), 1):
        result = node.run(node.manifest("a = 2\n"), wait=0)
    assert f"process {os.getpid()} holds {node.state}/manifest.lock for more than 0 s" in result["msg"]
    assert node.tree()["conf"][0] == "a = 1\n"
    assert node.run(node.manifest("a = 2\n"), wait=0)["changed"]


def test_a_run_that_was_killed_between_two_files_is_finished_by_the_next(node, monkeypatch):
    node.run()
    wanted = node.manifest("a = 2\n")
    wanted["files"][0]["content"] = "two\n"
    child = os.fork()
    if child == 0:
        real = file_set.put

        def put(path, version):
            if path.endswith("conf"):
                os._exit(9)
            real(path, version)

        monkeypatch.setattr(file_set, "put", put)
        try:
            node.run(wanted)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (node.tree()["first"][0], node.tree()["conf"][0]) == ("two\n", "a = 1\n")
    (node.state / "staged" / "leftover").mkdir()
    assert node.run(wanted)["changed_paths"] == node.paths("conf")
    assert (node.tree()["first"][0], node.tree()["conf"][0]) == ("two\n", "a = 2\n")
    assert list((node.state / "staged").iterdir()) == []


def test_a_program_that_was_replaced_is_recorded_anew(node):
    program = node.base / "program"
    program.write_text("1")
    wanted = node.manifest(programs=[{"path": str(program), "source": "package"}])
    node.run(wanted)
    program.write_text("2")
    result = node.run(wanted)
    assert (result["changed"], result["changed_paths"], result["can_roll_back"]) == (True, [], False)
    assert "sha256" in result["diff"][0]["after"]
    os.utime(program)
    assert not node.run(wanted)["changed"], "the same program with another time stamp"
    recorded = json.loads((node.state / "manifests" / "web.json").read_text())["programs"][str(program)]
    assert recorded["signature"][2] == program.stat().st_mtime_ns


def run_with_secret(node, text=SECRET, **options):
    wanted = {
        "directories": [{"path": str(node.etc)}],
        "files": [{"path": str(node.etc / "key"), "secret": True, "mode": "0600", "validate": [str(node.base / "judge"), "%s"]}],
    }
    return node.run(wanted, secrets={str(node.etc / "key"): text}, **options)


@pytest.mark.parametrize("check", [False, True])
def test_no_secret_leaves_the_node_or_is_logged_there(node, monkeypatch, check):
    logged = []
    monkeypatch.setattr(AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(f"{msg} {log_args}"))
    shutil.rmtree(node.state, ignore_errors=True)
    results = [run_with_secret(node, check=check, _ansible_verbosity=4)]
    shown = [node.out]
    results.append(run_with_secret(node, SECRET.replace("c2V", "d3W"), check=check, _ansible_verbosity=4))
    shown.append(node.out)
    results.append(run_with_secret(node, SECRET.replace("{", "nonsense " + KEY), check=check, _ansible_verbosity=4))
    shown.append(node.out)
    results.append(node.run({"directories": [], "files": [{"path": str(node.etc / "key"), "absent": True}]}, check=check))
    shown.append(node.out)
    if not check:
        shown.append((node.state / "manifests" / "web.json").read_text())
    assert logged, "the framework logs each call"
    for text in [*shown, *logged]:
        assert KEY not in text
        assert "c2VjcmV0" not in text
        assert "d3WjcmV0" not in text
    assert [result["changed"] for result in results[:2]] == [True, True]
    assert any("not shown" in part["after"] for part in results[0]["diff"])
    assert results[2]["failed"]
    assert "********" in results[2]["msg"]


def test_the_previous_versions_are_for_root_alone(node):
    run_with_secret(node)
    run_with_secret(node, "another")
    assert mode(node.state / "previous") == 0o700
    assert mode(node.state / "previous" / "web.json") == 0o600
    node.run(state="rolled_back")
    assert KEY not in node.out
    assert (node.etc / "key").read_text() == SECRET


def test_a_file_that_few_may_read_is_not_shown_when_it_goes(node):
    node.etc.mkdir()
    for name, number in (("open", 0o644), ("closed", 0o640)):
        (node.etc / name).write_text(f"what is {name}")
        (node.etc / name).chmod(number)
    node.run({"files": [{"path": str(node.etc / name), "absent": True} for name in ("open", "closed")]})
    assert "what is open" in node.out
    assert "what is closed" not in node.out
    assert node.tree() == {}


def test_a_node_without_systemd_is_told_before_anything_is_changed(node):
    (node.base / "systemctl").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    assert "systemctl show web.service failed: no bus" in node.run()["msg"]
    assert not node.etc.exists()
