# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plays that work on the nodes, run dry by Ansible itself: which batch comes to its turn, and what is said when one does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NODES = ("n1", "n2", "n3", "n4")
BATCHES = [["n4"], ["n2"], ["n1", "n3"]]
WITNESSES = {1: "n2", 2: "n4", 3: "n4"}


@pytest.fixture
def apply(tmp_path):
    """apply(batches, rollout, bad) is the exit code, what was said, and the nodes of which the second play of each batch came to an end."""

    def apply(batches: list[list[str]], rollout: bool, bad: set[str]) -> tuple[int, str, list[str]]:
        # A role that refuses its input stands for all that can go wrong on a node.
        hosts = {name: {"h2o_install_method": "floppy" if name in bad else "package"} for name in NODES}
        plan = {
            "rollout": rollout,
            "unkept": rollout,
            "batches": batches,
            "trying": [name for batch in batches for name in batch] if rollout else [],
            "hosts": {name: {"drift": {"h2o": ["differs"]} if name in bad else {}} for name in NODES},
            "by": "laptop",
            "settings_digest": "v",
        }
        groups = {f"plan_batch_{number}": batch for number, batch in enumerate(batches, start=1)}
        groups.update({f"plan_witness_{number}": [WITNESSES[number]] for number in range(1, len(batches) + 1) if len(batches) > 1})
        inventory = {
            "mesh": {"hosts": hosts, "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}},
            **{group: {"hosts": dict.fromkeys(names, {})} for group, names in groups.items()},
        }
        site = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
        plays = [
            {**play, "ansible.builtin.import_playbook": str(ROOT / "playbooks" / "apply.yml")}
            for play in site
            if play.get("ansible.builtin.import_playbook") == "apply.yml"
        ]
        assert [play["vars"]["mesh_batch"] for play in plays] == [1, 2, 3]
        last = {"hosts": "mesh", "gather_facts": False, "tasks": [{"debug": {"msg": "reached the end"}}]}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (tmp_path / "play.yml").write_text(yaml.safe_dump([*plays, last]))
        (tmp_path / "plan.json").write_text(json.dumps({"mesh_plan": plan}))
        (tmp_path / "ansible.cfg").touch()
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [Path(sys.executable).parent / "ansible-playbook", "-i", "hosts.yml", "--check", "-e", "@plan.json", "play.yml"]
        finished = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
        output = finished.stdout + finished.stderr
        reached = re.findall(r"^ok: \[(n\d)\] => \{\n +\"msg\": \"reached the end\"", output, re.MULTILINE)
        return finished.returncode, " ".join(output.split()), sorted(reached)

    return apply


def test_where_all_is_well_every_batch_has_its_turn(apply):
    code, output, reached = apply(BATCHES, True, set())
    assert (code, reached) == (0, sorted(NODES)), output


@pytest.mark.parametrize(("bad", "untouched"), [("n4", "n2, n1, n3"), ("n2", "n1, n3")])
def test_a_node_that_fails_stops_all_that_come_after_it(apply, bad, untouched):
    # They would fail as well, if they were touched.
    code, output, reached = apply(BATCHES, True, {bad, *untouched.split(", ")})
    assert code != 0
    assert reached == [], output
    assert f"The rollout stopped at {bad}, which failed with the new settings, as told above. Left as they were: {untouched}." in output
    assert not [name for name in untouched.split(", ") if f"included: vdloo.mesh.h2o for {name}" in output]


def test_what_fails_in_the_last_batch_stops_nobody(apply):
    code, output, reached = apply(BATCHES, True, {"n3"})
    assert code != 0
    assert "The rollout stopped" not in output
    assert reached == ["n1", "n2", "n4"]


def test_a_repair_that_fails_on_one_node_stops_no_other(apply):
    code, output, reached = apply([["n1", "n3"]], False, {"n1"})
    assert code != 0
    assert "The rollout stopped" not in output
    assert reached == ["n2", "n3", "n4"]
