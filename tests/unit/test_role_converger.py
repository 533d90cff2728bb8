# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manifest of the role converger, rendered as the role does on a node, and as a plan does from what the role has recorded there."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible_collections.vdloo.mesh.plugins.module_utils import builds, collection_files, manifest, versioned_folder
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import config, membership
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bundle, rendering, wheels
from test_role_manifests import ROOT, files_of, render

SHA = "ab" * 32
TIMER = "/etc/systemd/system/vdloo-mesh-converge.timer"
SERVICE = "/etc/systemd/system/vdloo-mesh-converge.service"
EVENT_PATH = "/etc/systemd/system/vdloo-mesh-event.path"
EVENT = "/etc/systemd/system/vdloo-mesh-event.service"
CRON = "/etc/cron.d/vdloo-mesh"
HOOKS = "/etc/vdloo-mesh/hooks"
LAUNCHER = "/usr/local/sbin/vdloo-mesh-converge"
# What the look at a node tells, without what is there already.
NODE = {
    "init": "systemd",
    "python": "/usr/bin/python3",
    "platform": "cp311-glibc2.36-x86_64",
    "ansible": "",
    "sha256": SHA,
    "problem": "",
    "lasting": False,
}
TOO_OLD = {**NODE, "python": "", "platform": "", "problem": "its Python is too old", "lasting": True}
NO_SPACE = {**NODE, "problem": "/opt has 12 MB of space left", "lasting": False}


def facts_of(node: dict, **given) -> dict:
    return render("converger", "__converger_facts", {"inventory_hostname": "pi", "__converger_node": node, **given})


def applied(node: dict, **given) -> dict:
    """What the role itself applies."""
    given = {"inventory_hostname": "pi", "__converger_node": node, **given}
    can = render("converger", "__converger_can", given)
    return render("converger", "__converger_manifest", {**given, "__converger_able": can})


def planned(facts: dict, **given) -> dict:
    """What a plan wants, that knows the recorded facts."""
    given = {"inventory_hostname": "pi", "converger_collection_sha256": SHA, **given}
    return render("converger", "__converger_manifest", given, facts)


def text_of(rendered: dict, path: str) -> str:
    return files_of(rendered)[path]["content"].decode()


def present(rendered: dict) -> set[str]:
    return {path for path, entry in files_of(rendered).items() if entry["content"] is not None}


@pytest.mark.parametrize("node", [NODE, {**NODE, "init": "cron"}, {**NODE, "ansible": "2.19.4"}, TOO_OLD])
@pytest.mark.parametrize("given", [{}, {"converger_enabled": False}, {"converger_wheels": "/srv/wheels"}])
def test_what_the_role_applied_is_what_the_next_plan_wants(node, given):
    assert planned(facts_of(node, **given), **given) == applied(node, **given)


def test_a_manifest_can_be_read_and_is_the_same_each_time():
    rendered = planned(facts_of(NODE))
    assert manifest.wanted(rendered) == manifest.wanted(planned(facts_of(NODE)))
    managed = {entry["path"] for section in ("files", "programs") for entry in rendered[section]}
    for entry in rendered["services"]:
        assert set(entry["restart"]) <= managed


def test_the_services_are_what_begins_runs_alone_so_that_no_run_restarts_the_run_that_it_is():
    services = planned(facts_of(NODE))["services"]
    # systemd has to be told of a new unit, but neither a new program nor new settings restart anything.
    assert {entry["name"]: entry["restart"] for entry in services} == {
        "vdloo-mesh-converge.timer": [TIMER, SERVICE],
        "vdloo-mesh-event.path": [EVENT_PATH, EVENT],
    }


# ---------------------------------------------------------------- files


def test_the_settings_are_those_that_the_program_reads(tmp_path):
    path = tmp_path / "converger.json"
    path.write_text(text_of(planned(facts_of(NODE), converger_period=600), "/etc/vdloo-mesh/converger.json"))
    found, unknown = config.load(str(path))
    assert unknown == []
    assert (found.node, found.period_s, found.island_after_s, found.lock_ttl_s) == ("pi", 600, 1800, 30)
    assert found.ansible_playbook == "/opt/vdloo-mesh/venv/current/bin/ansible-playbook"
    assert found.playbook == "vdloo.mesh.site"


def test_a_period_that_comes_as_a_text_is_a_number_all_the_same():
    settings = json.loads(text_of(planned(facts_of(NODE), converger_period="40"), "/etc/vdloo-mesh/converger.json"))
    assert (settings["period_s"], settings["island_after_s"]) == (40, 120)


def test_the_inventory_names_the_node_and_takes_options_of_the_user():
    path = "/etc/vdloo-mesh/inventory/mesh.yml"
    given = {"converger_inventory": {"timeout": 9}, "converger_consul_addr": "127.0.0.1:9500"}
    assert yaml.safe_load(text_of(planned(facts_of(NODE), **given), path)) == {
        "plugin": "vdloo.mesh.mesh",
        "node": "pi",
        "consul_addr": "127.0.0.1:9500",
        "timeout": 9,
    }


def test_ansible_logs_in_with_the_key_of_the_node_to_known_hosts_only():
    read = configparser.RawConfigParser()
    read.read_string(text_of(planned(facts_of(NODE)), "/etc/vdloo-mesh/ansible.cfg"))
    assert read["defaults"]["private_key_file"] == "/etc/vdloo-mesh/ssh/id_ed25519"
    assert read["defaults"]["collections_path"] == "/opt/vdloo-mesh/collection/current"
    arguments = read["ssh_connection"]["ssh_args"]
    for option in ("StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "BatchMode=yes"):
        assert f"-o {option}" in arguments
    assert read["defaults"].getboolean("host_key_checking")
    assert read["inventory"].getboolean("any_unparsed_is_failed")


def test_the_units_say_when_a_run_begins_and_when_it_is_too_long():
    rendered = planned(facts_of(NODE), converger_period=900, converger_timeout=100)
    timer, service = text_of(rendered, TIMER), text_of(rendered, SERVICE)
    for line in ("OnActiveSec=120", "OnUnitInactiveSec=450", "RandomizedDelaySec=180", "WantedBy=timers.target"):
        assert f"\n{line}\n" in timer
    for line in ("Type=oneshot", "Nice=10", "IOSchedulingClass=idle", f"ExecStart={LAUNCHER} --reason timer", "TimeoutStartSec=920"):
        assert f"\n{line}\n" in service
    assert "\nOnActiveSec=10\n" in text_of(planned(facts_of(NODE), converger_period=40), TIMER)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_the_units_valid(tmp_path):
    rendered = planned(facts_of(NODE))
    for path in (TIMER, SERVICE, EVENT_PATH, EVENT):
        text = text_of(rendered, path).replace(LAUNCHER, "/bin/true")
        (tmp_path / path.rpartition("/")[2]).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "vdloo-mesh" in line] == []


@pytest.mark.parametrize(
    ("period", "times"),
    [
        (900, "*/8 * * * *"),
        (20, "*/1 * * * *"),
        (240, "*/2 * * * *"),
        (3600, "*/30 * * * *"),
        (14000, "0 */2 * * *"),
        (10**6, "0 */23 * * *"),
    ],
)
def test_without_systemd_cron_starts_the_runs(period, times):
    rendered = planned(facts_of({**NODE, "init": "cron"}), converger_period=period, converger_jitter=7)
    assert rendered["services"] == []
    assert not {TIMER, SERVICE, EVENT, EVENT_PATH} & present(rendered)
    line = text_of(rendered, CRON).splitlines()[-1]
    assert line.startswith(f"{times} root ")
    assert f"{LAUNCHER} --reason timer --jitter 7" in line
    # cron takes a percent sign for the end of the line, and ignores a last line without an end.
    assert "%" not in text_of(rendered, CRON)
    assert text_of(rendered, CRON).endswith("\n")


# ---------------------------------------------------------------- events and hooks


def test_word_of_the_agent_begins_a_run_and_is_taken_away_first():
    rendered = planned(facts_of(NODE))
    word = f"{membership.FOLDER}/{membership.WORD}"
    assert f"\nPathExists={word}\n" in text_of(rendered, EVENT_PATH)
    assert f"\nExecStartPre=/bin/rm -rf {word}\nExecStart={LAUNCHER} --reason event\n" in text_of(rendered, EVENT)
    # At boot all paths come before all services: one that comes after a service makes a circle.
    assert "After=" not in text_of(rendered, EVENT_PATH)
    assert {"path": membership.FOLDER, "group": "consul", "mode": "0730"} in rendered["directories"]
    assert [watch["args"] for watch in membership.WATCHES] == [["touch", word]] * 2


@pytest.mark.parametrize(("there", "said"), [("", ""), ("file", "event"), ("folder", "event")])
def test_cron_looks_each_minute_for_the_word_of_the_agent(tmp_path, there, said):
    rendered = planned(facts_of({**NODE, "init": "cron"}))
    lines = [line for line in text_of(rendered, CRON).splitlines() if line.startswith("* * * * * root ")]
    assert len(lines) == 1
    launcher, word = tmp_path / "launcher", tmp_path / "changed"
    launcher.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/said\n')
    launcher.chmod(0o755)
    if there == "file":
        word.touch()
    elif there:
        (word / "more").mkdir(parents=True)
    command = lines[0].partition("root ")[2].replace(LAUNCHER, str(launcher)).replace(f"{membership.FOLDER}/changed", str(word))
    done = subprocess.run(["/bin/sh", "-c", command.replace("logger -t vdloo-mesh-converge", "cat")], check=False)
    assert done.returncode == 0
    assert not word.exists()
    assert ((tmp_path / "said").read_text() if said else "") == (f"--reason {said}\n" if said else "")


def hook(**given):
    return {"event": "node_left", "name": "tell", "content": "#!/bin/sh\n", **given}


def test_hooks_are_files_that_root_alone_may_use_and_that_go_when_nobody_asks_for_them():
    given = {
        "converger_hooks": [
            hook(when="#!/bin/true\n", timeout=5, each_node=True),
            hook(name="rent.yml", event="below_minimum", content="[]\n"),
        ]
    }
    files = {path: entry for path, entry in files_of(planned(facts_of(NODE), **given)).items() if path.startswith(HOOKS)}
    assert {path: (entry["mode"], entry["content"]) for path, entry in files.items()} == {
        f"{HOOKS}/node_left/tell": ("0700", b"#!/bin/sh\n"),
        f"{HOOKS}/node_left/tell.when": ("0700", b"#!/bin/true\n"),
        f"{HOOKS}/node_left/tell.json": ("0600", b'{"timeout_s": 5, "each_node": true}\n'),
        f"{HOOKS}/below_minimum/rent.yml": ("0600", b"[]\n"),
        f"{HOOKS}/below_minimum/rent.json": ("0600", b'{"timeout_s": 60, "each_node": false}\n'),
    }
    assert all(entry["drop"] for entry in files.values())
    folders = {entry["path"] for entry in planned(facts_of(NODE))["directories"]}
    assert {f"{HOOKS}/{event}" for event in membership.EVENTS} <= folders


@pytest.mark.parametrize(
    ("listed", "advice"),
    [
        ([hook(event="whim")], "whim is no event: write one of node_joined"),
        ([hook(), {"event": "node_left", "name": "x"}], r"converger_hooks\[1\]: content is missing"),
        ([hook(name="../x")], "is not one for a file"),
        ([hook(name="x.json")], "is not one for a file"),
        ([hook(name="x~")], "is not one for a file"),
        ([hook(name=".yml")], "is not one for a file"),
        ([hook(), hook(name="tell.yml")], "has another hook of the name tell: give this one another name"),
        ([hook(timeout=0)], "timeout is 0: write a number of seconds from 1"),
        ([hook(timeout="soon")], "timeout is 'soon'"),
        ([hook(each_node="yes")], "each_node is 'yes': write true or false"),
        ([hook(colour="red")], "colour is not known: the keys are content, each_node"),
        ([hook(content="")], "content is missing or no text"),
        (["tell"], "it is no dictionary"),
    ],
)
def test_a_hook_that_is_wrong_is_named_before_anything_is_changed(listed, advice):
    with pytest.raises(AnsibleError, match=advice):
        planned(facts_of(NODE), converger_hooks=listed)


def test_the_minimum_is_that_of_the_mesh():
    def minimum(**given):
        return json.loads(text_of(planned(facts_of(NODE), **given), "/etc/vdloo-mesh/converger.json"))["minimum_nodes"]

    assert [minimum(), minimum(mesh_minimum_nodes=3), minimum(mesh_minimum_nodes="4"), minimum(converger_minimum_nodes=5)] == [0, 3, 4, 5]


def test_the_events_of_the_role_are_those_of_the_program():
    specified = yaml.safe_load((ROOT / "roles/converger/meta/argument_specs.yml").read_text())
    event = specified["argument_specs"]["main"]["options"]["converger_hooks"]["options"]["event"]
    assert set(event["choices"]) == set(membership.EVENTS)


@pytest.fixture
def launch(tmp_path):
    """A node with a build of this collection in use; runs the launcher there."""
    archive = tmp_path / "build.tar.gz"
    bundle.build(archive)
    base = tmp_path / "collection"
    base.mkdir()
    versioned_folder.place(
        str(base), "1", str(archive), lambda folder: builds.note(folder, collection_files.digest(f"{folder}/{builds.INSIDE}"))
    )
    versioned_folder.switch(str(base), "1")
    launcher = tmp_path / "launcher"
    text = text_of(planned(facts_of({**NODE, "python": sys.executable})), LAUNCHER)
    launcher.write_text(text.replace("/opt/vdloo-mesh/collection/current", str(base / "current")))
    launcher.chmod(0o755)

    def run() -> subprocess.CompletedProcess:
        return subprocess.run([launcher, "--config", str(tmp_path / "none.json")], capture_output=True, text=True, cwd="/", check=False)

    run.build = base / "1"
    return run


def test_the_launcher_runs_the_build_that_is_in_use(launch):
    assert text_of(planned(facts_of(NODE)), LAUNCHER).startswith("#!/usr/bin/python3 -IS\n")
    assert files_of(planned(facts_of(NODE)))[LAUNCHER]["mode"] == "0755"
    for _time in ("first", "with what Python has cached"):
        found = launch()
        assert (found.returncode, "none.json" in found.stderr) == (2, True), found.stderr
    assert (launch.build / "build.json").exists()


@pytest.mark.parametrize("damage", ["edited", "broken", "gone"])
def test_a_build_that_was_changed_is_not_run_and_the_others_find_it_missing(launch, damage):
    plugins = launch.build / builds.INSIDE / "plugins"
    if damage == "edited":
        (launch.build / builds.INSIDE / "roles/node/README.md").write_text("other")
    elif damage == "broken":
        (plugins / "module_utils/builds.py").write_text("def\n")
    else:
        shutil.rmtree(plugins)
    found = launch()
    assert found.returncode == 1
    assert "Another node brings it" in found.stderr
    assert not (launch.build / "build.json").exists()


def test_the_wanted_build_is_written_down_and_compared():
    rendered = planned(facts_of(NODE))
    assert json.loads(text_of(rendered, "/opt/vdloo-mesh/collection.json")) == {"sha256": SHA}
    assert {"path": "/opt/vdloo-mesh/collection/current/build.json", "source": SHA} in rendered["programs"]
    other = planned(facts_of(NODE), converger_collection_sha256="cd" * 32)
    assert manifest.wanted(other) != manifest.wanted(rendered)


# ---------------------------------------------------------------- a node that cannot, or shall not


def test_a_node_that_cannot_has_the_inventory_and_nothing_that_starts_runs():
    rendered = planned(facts_of(TOO_OLD))
    assert present(rendered) == {"/etc/vdloo-mesh/ansible.cfg", "/etc/vdloo-mesh/inventory/mesh.yml"}
    assert rendered["programs"] == rendered["services"] == []


@pytest.mark.parametrize(
    "given",
    [
        {"converger_wheels": "/srv/wheels"},
        {"converger_collection_sha256": "cd" * 32},
        {"ansible_python_interpreter": "/usr/bin/python3.11"},
    ],
)
def test_a_lasting_problem_is_looked_at_again_when_the_chance_is_another(given):
    facts = facts_of(TOO_OLD)
    assert LAUNCHER in present(planned(facts, **given))
    assert manifest.wanted(planned(facts, **given))["programs"], "the plan must be able to read it"


def test_what_may_pass_by_itself_is_tried_again_by_each_run():
    facts = facts_of(NO_SPACE)
    assert (facts["problem"], facts["tried"]) == ("/opt has 12 MB of space left", "")
    assert LAUNCHER in present(planned(facts))
    assert LAUNCHER not in present(applied(NO_SPACE))


def test_missing_wheels_are_the_problem_of_a_node_that_was_found_good():
    made = {"problem": "there are no wheels", "lasting": True}
    facts = facts_of(NODE, __converger_made=made)
    assert facts["problem"] == "there are no wheels"
    assert LAUNCHER not in present(planned(facts))


@pytest.mark.parametrize("no", [False, "false", "no"])
def test_a_node_that_shall_not_converge_has_nothing_of_the_role(no):
    rendered = planned(facts_of(NODE), converger_enabled=no)
    assert present(rendered) == set()
    assert rendered["directories"] == rendered["programs"] == rendered["services"] == []


# ---------------------------------------------------------------- what Ansible is made of


def test_the_key_of_the_venv_names_its_kind_and_what_it_is_made_of():
    def key(node, **given):
        return render("converger", "__converger_key", {"__converger_node": node, **given}, facts_of(node))

    assert wheels.KEY.match(key(NODE))
    assert key(NODE).startswith("cp311-glibc2.36-x86_64-")
    assert key(NODE) != key({**NODE, "ansible": "2.19.4"})
    assert key({**NODE, "ansible": "2.19.4"}) == key({**NODE, "ansible": "2.19.5"}), "an update of the distribution's asks for nothing"


def test_the_requirements_agree_with_those_of_the_checkout():
    wanted = render("converger", "__converger_requirements", {})
    assert [re.split("[<>=]", line)[0] for line in wanted] == ["ansible-core", "consul-kv"]
    checkout = (ROOT / "requirements.txt").read_text().splitlines()
    assert wanted[1] in checkout
    supported = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["requires_ansible"]
    assert wanted[0].startswith(f"ansible-core{supported.removesuffix('.0')}")


def test_what_was_rendered_can_be_remembered():
    host = rendering.Host(rendering.Roles(DataLoader()), {"inventory_hostname": "pi"})
    given = {"converger_collection_sha256": SHA, "__converger_facts": facts_of(NODE)}
    known = host.inputs("converger", ["__converger_manifest"], given)
    assert known is not None
    assert host.inputs("converger", ["__converger_manifest"], {**given, "converger_collection_sha256": "cd" * 32}) != known
