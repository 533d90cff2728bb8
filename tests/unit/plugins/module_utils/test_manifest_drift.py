# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import file_set, manifest, manifest_changes, manifest_reader, validation
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="files are given to root")

UNIT = "web.service"
ALIVE = "ActiveState=active\nUnitFileState=enabled\nExecMainStartTimestampMonotonic={start}\n"


def systemd_says(text=ALIVE, start=10**15):
    """A systemctl in which all units are as told; the start in microseconds of the monotonic clock, by default in the future."""

    def run(argv):
        units = argv[argv.index("--") + 1 :]
        return 0, "\n".join(text.format(start=start) for _unit in units), ""

    return run


def apply(wanted, base, facts=None):
    """What the module does, without its caution."""
    plain = manifest_reader.read(wanted, {entry["path"]: "hush" for entry in wanted["files"] if entry.get("secret")})
    file_set.make(manifest_changes.compare(plain, None, check_mode=False))
    state = Path(base) / "manifests"
    state.mkdir(exist_ok=True)
    (state / "web.json").write_text(json.dumps(manifest.record("web", plain, facts or {}, str(state))))
    return str(state)


def look(state, run=None):
    return manifest.observe(state, run or systemd_says()).get("web")


@pytest.fixture
def node(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    wanted = {
        "directories": [{"path": f"{tmp_path}/etc", "mode": "0750"}],
        "files": [
            {"path": f"{tmp_path}/etc/conf", "content": "a = 1\n", "mode": "0640"},
            {"path": f"{tmp_path}/etc/key", "secret": True, "mode": "0600"},
            {"path": f"{tmp_path}/etc/old", "absent": True},
        ],
        "programs": [{"path": str(program), "source": "package"}],
        "services": [{"name": UNIT, "restart": [str(program)], "reload": [f"{tmp_path}/etc/conf"]}],
    }
    return tmp_path, wanted


def test_what_was_applied_does_not_differ(node):
    base, wanted = node
    observed = look(apply(wanted, base, {"python": "/usr/bin/python3"}))
    assert manifest.drift(manifest.wanted(wanted), observed) == []
    assert observed["facts"] == {"python": "/usr/bin/python3"}
    assert observed["services"][UNIT]["reads"] == {"restart": [f"{base}/program"], "reload": [f"{base}/etc/conf"]}


def test_a_role_that_nobody_applied_is_not_managed_yet(node):
    base, wanted = node
    assert manifest.drift(manifest.wanted(wanted), look(str(base / "nowhere"))) == ["not managed yet"]


def change(path, act):
    return lambda base, wanted: act(base / path)


CHANGES = {
    "etc/conf differs": change("etc/conf", lambda path: path.write_text("a = 2\n")),
    "etc/conf is missing": change("etc/conf", lambda path: path.unlink()),
    "etc/conf has the mode 0644 instead of 0640": change("etc/conf", lambda path: path.chmod(0o644)),
    "etc/conf has the owner nobody instead of root": change("etc/conf", lambda path: os.chown(path, 65534, -1)),
    "etc/key differs": change("etc/key", lambda path: path.write_text("other")),
    "etc/old should not be there": change("etc/old", lambda path: path.write_text("")),
    "etc has the mode 0755 instead of 0750": change("etc", lambda path: path.chmod(0o755)),
    "program was replaced": change("program", lambda path: path.write_text("#!/bin/bash\n")),
    "program is missing": change("program", lambda path: path.unlink()),
    "program comes from package instead of sha256:1234": lambda _base, wanted: wanted["programs"][0].update(source="sha256:1234"),
    "etc/more is not managed yet": lambda base, wanted: wanted["files"].append({"path": f"{base}/etc/more", "content": ""}),
    "etc/old is no longer managed": lambda _base, wanted: wanted["files"].pop(),
    "program is no longer managed": lambda _base, wanted: wanted["programs"].clear(),
    "web.service reads other files than recorded": lambda _base, wanted: wanted["services"][0].update(reload=[]),
    "web.service is no longer managed": lambda _base, wanted: wanted["services"].clear(),
    "other.service is not managed yet": lambda _base, wanted: wanted["services"].append({"name": "other.service"}),
}


@pytest.mark.parametrize(("told", "act"), CHANGES.items(), ids=CHANGES)
def test_any_single_change_is_named(node, told, act):
    base, wanted = node
    state = apply(wanted, base)
    act(base, wanted)
    reasons = manifest.drift(manifest.wanted(wanted), look(state))
    assert len(reasons) == 1
    assert reasons[0].endswith(told)


def test_a_link_in_the_place_of_a_file_differs(node):
    base, wanted = node
    state = apply(wanted, base)
    os.rename(base / "etc/conf", base / "elsewhere")
    (base / "etc/conf").symlink_to(base / "elsewhere")
    assert manifest.drift(manifest.wanted(wanted), look(state)) == [f"{base}/etc/conf differs"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ActiveState=failed\nUnitFileState=enabled\n", ["web.service does not run"]),
        (ALIVE.replace("enabled", "disabled"), ["web.service does not start at boot"]),
        ("LoadState=not-found\n", ["web.service does not run", "web.service does not start at boot"]),
    ],
)
def test_a_service_that_is_not_as_it_should_be_is_named(node, text, told):
    base, wanted = node
    state = apply(wanted, base)
    assert manifest.drift(manifest.wanted(wanted), look(state, systemd_says(text))) == told


def test_what_a_service_has_not_read_is_named(node):
    base, wanted = node
    state = apply(wanted, base)
    reasons = manifest.drift(manifest.wanted(wanted), look(state, systemd_says(start=1)))
    assert reasons == [f"web.service has not read {base}/program", f"web.service has not read {base}/etc/conf"]


def test_a_systemd_that_does_not_answer_is_a_service_that_does_not_run(node):
    base, wanted = node
    state = apply(wanted, base)
    assert look(state, lambda argv: (1, "", "no bus"))["services"][UNIT]["running"] is False


def test_the_services_of_all_roles_are_asked_for_together(node):
    base, wanted = node
    state = Path(apply(wanted, base))
    record = json.loads((state / "web.json").read_text())
    record.update(role="other", services={"other.service": {"restart": [], "reload": []}, UNIT: {"restart": [], "reload": []}})
    (state / "other.json").write_text(json.dumps(record))
    calls = []

    def run(argv):
        calls.append(argv)
        return systemd_says()(argv)

    observed = manifest.observe(str(state), run)
    assert [sorted(observed[role]["services"]) for role in ("other", "web")] == [["other.service", UNIT], [UNIT]]
    assert len(calls) == 1


def test_a_program_with_the_recorded_signature_is_not_read(node, monkeypatch):
    base, wanted = node
    state = apply(wanted, base)
    read = []
    real = manifest.on_disk.digest
    monkeypatch.setattr(manifest.on_disk, "digest", lambda path: read.append(os.path.basename(path)) or real(path))
    look(state)
    assert "program" not in read
    os.utime(base / "program")
    assert look(state)["programs"][f"{base}/program"]["sha256"] == real(f"{base}/program")
    assert "program" in read


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"version": 1, "role": "web"}',
        b'{"version": 1, "role": "other", "facts": {}, "files": {}, "directories": {}, "programs": {}, "services": {}}',
        b'{"version": 1, "role": "web", "facts": {}, "files": [], "directories": {}, "programs": {}, "services": {}}',
        b'{"version": 1, "role": "web", "facts": {}, "files": {}, "directories": {}, "programs": {}, "services": {"a.service": {"restart": 1}}}',
        b'{"version": 1, "role": "web", "facts": {}, "files": {}, "directories": {}, "programs": {},'
        b' "services": {"-H": {"restart": [], "reload": []}}}',
    ],
)
def test_a_damaged_record_is_as_none(node, damage):
    base, wanted = node
    state = Path(apply(wanted, base))
    (state / "web.json").write_bytes(damage)
    assert manifest.observe(str(state), systemd_says()) == {}


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_no_record_makes_the_look_fail(value):
    with tempfile.TemporaryDirectory() as state:
        whole = {"version": 1, "role": "web", "facts": {}, "files": {}, "directories": {}, "programs": {}, "services": {}}
        for section in whole:
            (Path(state) / "web.json").write_text(json.dumps({**whole, section: value}))
            manifest.observe(state, systemd_says())


NAMES = st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), unique=True, max_size=5)
ENTRY = st.fixed_dictionaries({"content": st.text(), "mode": st.sampled_from(["0600", "640", "0644", "0755"])}) | st.just({"absent": True})


@settings(max_examples=60)
@given(NAMES, st.data())
def test_what_was_applied_never_differs_and_what_is_changed_then_is_named(names, data):
    with tempfile.TemporaryDirectory() as base:
        files = [{"path": f"{base}/etc/{name}", **data.draw(ENTRY)} for name in names]
        wanted = {"directories": [{"path": f"{base}/etc"}], "files": files}
        state = apply(wanted, base)
        assert manifest.drift(manifest.wanted(wanted), look(state)) == []
        before = copy.deepcopy(look(state))
        if names:
            path = Path(data.draw(st.sampled_from(files))["path"])
            path.write_text(path.read_text() + "x" if path.exists() else "x")
            reasons = manifest.drift(manifest.wanted(wanted), look(state))
            assert len(reasons) == 1
            assert str(path) in reasons[0]
            apply(wanted, base)
            assert look(state) == before


def test_the_words_of_a_secret_are_hidden_in_what_a_daemon_says():
    secret = json.dumps({"encrypt_key": "c2VjcmV0LXNlY3JldA==", "list": ["another-secret"]}).encode()
    said = 'key encrypt_key: "c2VjcmV0LXNlY3JldA==" is bad, another-secret too'
    assert validation.mask(said, [secret]) == 'key encrypt_key: "********" is bad, ******** too'
    assert "hunter2hunter2" not in validation.mask("line 3: password=hunter2hunter2", [b"password=hunter2hunter2\n"])


@pytest.mark.parametrize(
    ("argv", "program"),
    [(["/usr/bin/h2o", "-t"], "/usr/bin/h2o"), (["env", "A=1", "B=2", "/opt/h2o", "-t", "x=y"], "/opt/h2o"), (["env"], "env")],
)
def test_the_program_behind_env_is_the_one_that_judges(argv, program):
    assert validation.program_of(argv) == program
