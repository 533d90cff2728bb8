# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who joins and who leaves begins a run, and the hooks of it run. The timers stand by: what is seen here, the watches have begun."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from helpers import EVENT, NODES, PATH, SERVICE, TIMER, WORK, hold, last_run, let_go

# It is no server, so that its loss costs no election.
VICTIM = NODES[-1]
OTHERS = NODES[:-1]
QUIET = 10
GRACE = 15
LOG = "/root/hooks.log"
TELL = f'#!/bin/sh\necho "$VDLOO_MESH_EVENT $VDLOO_MESH_ABOUT $VDLOO_MESH_ALIVE/$VDLOO_MESH_MINIMUM on $VDLOO_MESH_SELF" >>{LOG}\n'
HOOKS = [
    *({"event": event, "name": "tell", "content": TELL} for event in ("node_joined", "node_left", "below_minimum")),
    {"event": "cluster_change", "name": "everywhere", "content": TELL.replace("$VDLOO_MESH_EVENT", "everywhere"), "each_node": True},
    {"event": "cluster_change", "name": "bad", "content": "#!/bin/sh\necho no luck\nexit 3\n"},
    {"event": "cluster_change", "name": "hang", "content": "#!/bin/sh\nsleep 600 & sleep 600\n", "timeout": 2},
    {"event": "cluster_change", "name": "never", "content": TELL, "when": "#!/bin/sh\nexit 1\n"},
    {
        "event": "node_joined",
        "name": "note.yml",
        # Named after what it is about, so that a second one would be seen.
        "content": f"""\
- hosts: mesh
  gather_facts: false
  tasks:
    - ansible.builtin.shell: "echo playbook {{{{ mesh_event }}}} {{{{ mesh_event_node }}}} >>{LOG}"
""",
    },
]
HOLDER = "this node has the lock, and converges the mesh"


@pytest.fixture(scope="module")
def settings(mesh, tmp_path_factory):
    """The mesh with hooks, and without them in the end."""
    path = tmp_path_factory.mktemp("settings") / "hosts.yml"
    inventory = yaml.safe_load(mesh.inventory.read_text())
    inventory["mesh"].setdefault("vars", {}).update(
        converger_hooks=[{**hook, "content": yaml_unsafe(hook["content"])} for hook in HOOKS],
        converger_event_quiet=QUIET,
        converger_minimum_grace=GRACE,
        mesh_minimum_nodes=len(NODES),
    )
    path.write_text(yaml.dump(inventory, Dumper=Dumper))
    if mesh.node(NODES[0]).run("systemctl is-active %s", TIMER).rc != 0:
        run = mesh.site()
        assert run.code == 0, run.output
    # A run that began with the settings of before would bring them back until the next one.
    hold(mesh, *NODES)
    run = mesh.site("-i", str(path))
    assert run.code == 0, run.output
    yield path
    hold(mesh, *NODES)
    run = mesh.site()
    assert run.code == 0, run.output
    for name in NODES:
        mesh.node(name).check_output("rm -f %s", LOG)
    let_go(mesh, *NODES)


class Unsafe(str):
    """A text that is no template of the inventory."""


class Dumper(yaml.SafeDumper):
    pass


Dumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


def yaml_unsafe(text: str) -> Unsafe:
    return Unsafe(text)


@pytest.fixture
def events_only(mesh, settings):
    """Runs begin by events alone; what was noted is forgotten."""
    kept = "curl -s 'http://127.0.0.1:8500/v1/kv/vdloo-mesh/v1/members?raw'"
    whole = dict.fromkeys(NODES, "alive")
    let_go(mesh, *NODES, services=(EVENT,))
    if json.loads(mesh.node(NODES[0]).check_output(kept) or "{}").get("members") != whole:
        for name in NODES:
            mesh.node(name).check_output("touch /var/lib/vdloo-mesh-events/changed")
    mesh.wait_for(
        lambda: json.loads(mesh.node(NODES[0]).check_output(kept)).get("members") == whole, "the record has all members", 3 * WORK
    )
    mesh.wait_for(lambda: not any(goes_on(mesh, name) for name in NODES), "it is quiet", 3 * WORK)
    for name in NODES:
        mesh.node(name).check_output("rm -f %s", LOG)
    yield
    hold(mesh, *NODES)


def goes_on(mesh, name: str) -> bool:
    return mesh.node(name).check_output("systemctl show -p ActiveState --value %s", EVENT) not in ("inactive", "failed")


def runs(mesh, *names: str) -> int:
    """How many runs these nodes have made."""
    return sum(int(mesh.node(name).run("journalctl -t vdloo-mesh-converge -o cat | grep -cF %s", HOLDER).stdout or 0) for name in names)


def noted(mesh, *names: str, word: str) -> list[str]:
    """What hooks have noted on these nodes."""
    lines = [line for name in names for line in mesh.node(name).run("cat %s", LOG).stdout.splitlines()]
    return sorted(line for line in lines if line.startswith(word))


def wait_until_done(mesh, before: int, *names: str) -> None:
    """Wait until a run was made and nothing goes on; see to it that it makes no other."""
    mesh.wait_for(lambda: runs(mesh, *names) > before, "an event begins a run", 2 * WORK)
    mesh.wait_for(lambda: not any(goes_on(mesh, name) for name in names), "it ends", 3 * WORK)
    time.sleep(3 * QUIET)
    mesh.wait_for(lambda: not any(goes_on(mesh, name) for name in names), "nothing goes on", 3 * WORK)


def test_hooks_and_watches_are_on_every_node_and_a_second_run_changes_nothing(mesh, settings):
    again = mesh.site("-i", str(settings))
    assert (again.code, set(again.changed.values())) == (0, {0}), again.output
    for name in NODES:
        node = mesh.node(name)
        assert node.check_output("systemctl is-active %s", PATH) == "active"
        assert node.check_output("systemctl is-enabled %s", PATH) == "enabled"
        assert node.file("/etc/vdloo-mesh/hooks/node_left/tell").mode == 0o700
        assert node.file("/etc/vdloo-mesh/hooks/node_left/tell").content_string == TELL
        assert node.file("/etc/consul.d/watches.json").exists
        assert node.check_output("stat -c '%U:%G %a' /var/lib/vdloo-mesh-events") == "root:consul 730"


def test_a_node_that_is_gone_begins_one_run_that_tells_of_it(mesh, events_only):
    before = runs(mesh, *OTHERS)
    mesh.container(VICTIM).stop(timeout=20)
    try:
        wait_until_done(mesh, before, *OTHERS)
        assert runs(mesh, *OTHERS) - before == 1
        last = {name: last_run(mesh, name) for name in OTHERS}
        holder = next((name for name in OTHERS if last[name].get("reason") == "event" and last[name].get("hooks")), "")
        assert holder, last
        told = last[holder]
        assert told["outcome"] in ("converged", "changed"), told
        alive = f"{len(OTHERS)}/{len(NODES)}"
        assert noted(mesh, *OTHERS, word="node_left") == [f"node_left {VICTIM} {alive} on {holder}"]
        assert noted(mesh, *OTHERS, word="everywhere") == [f"everywhere  {alive} on {name}" for name in OTHERS]
        # By a second look, which need not be that of the same node.
        below = noted(mesh, *OTHERS, word="below_minimum")
        assert [line.rpartition(" on ")[0] for line in below] == [f"below_minimum  {alive}"]
        outcomes = {entry["name"]: entry["outcome"] for entry in told["hooks"] if entry["event"] == "cluster_change"}
        assert outcomes == {"bad": "failed", "hang": "timed out", "each node": "ok"}
        shown = mesh.node(holder).check_output("vdloo-mesh-converge --status")
        assert "hook cluster_change/bad: failed at " in shown
        assert "hook cluster_change/hang: timed out at " in shown
        assert mesh.node(holder).run("pgrep -x sleep -a | grep 600").stdout == ""
    finally:
        mesh.container(VICTIM).start()
        mesh._connections.pop(VICTIM, None)
        mesh.wait_for(lambda: mesh.node(VICTIM).run("true").rc == 0, f"{VICTIM} answers by SSH")


@pytest.mark.slow
def test_a_node_that_comes_back_is_told_of_by_a_program_and_by_a_playbook(mesh, events_only):
    before = runs(mesh, *NODES)
    mesh.node(VICTIM).check_output("systemctl stop consul")
    # The run mends it, and has seen it come and go.
    wait_until_done(mesh, before, *NODES)
    mesh.wait_for(lambda: mesh.members(NODES[0]) == dict.fromkeys(NODES, "alive"), f"{VICTIM} is a member again")
    mesh.wait_for(lambda: not any(goes_on(mesh, name) for name in NODES), "nothing goes on", 3 * WORK)
    assert 1 <= runs(mesh, *NODES) - before <= 2
    left, joined = (noted(mesh, *NODES, word=word) for word in ("node_left", "node_joined"))
    assert len(left) == len(joined) <= 1
    assert len(noted(mesh, *NODES, word=f"playbook node_joined {VICTIM}")) == len(joined) * len(NODES)
    assert noted(mesh, *NODES, word="below_minimum") == []


@pytest.mark.slow
def test_ten_flaps_make_one_run(mesh, events_only):
    before = runs(mesh, *NODES)
    flap = "for n in 1 2 3 4 5 6 7 8 9 10; do consul leave; systemctl start consul; sleep 1; done; consul leave"
    mesh.node(VICTIM).run(flap)
    wait_until_done(mesh, before, *NODES)
    mesh.wait_for(lambda: mesh.members(NODES[0]) == dict.fromkeys(NODES, "alive"), f"{VICTIM} is a member again", 3 * WORK)
    mesh.wait_for(lambda: not any(goes_on(mesh, name) for name in NODES), "nothing goes on", 3 * WORK)
    # On a slow machine the flaps take longer than an event waits: then their middle is a change, too.
    assert 1 <= runs(mesh, *NODES) - before <= 2


@pytest.mark.slow
def test_a_path_that_stands_still_is_mended_and_a_boot_has_no_circle(mesh, events_only):
    mesh.node(VICTIM).check_output("systemctl stop %s", PATH)
    assert mesh.node(NODES[0]).run("vdloo-mesh-converge").rc == 0
    assert mesh.node(VICTIM).check_output("systemctl is-active %s", PATH) == "active"
    mesh.reboot(VICTIM)
    mesh.wait_for(lambda: mesh.node(VICTIM).run("systemctl is-active %s", PATH).stdout.strip() == "active", "it hears again")
    assert mesh.node(VICTIM).run("journalctl -b --no-pager | grep -i 'ordering cycle'").stdout == ""
    mesh.wait_for(lambda: mesh.members(NODES[0]) == dict.fromkeys(NODES, "alive"), f"{VICTIM} is a member again")


@pytest.mark.slow
def test_a_word_that_cannot_be_a_file_does_no_harm(mesh, events_only):
    node = mesh.node(VICTIM)
    before = runs(mesh, *NODES)
    node.check_output("rm -f /var/lib/vdloo-mesh-events/changed && mkdir -p /var/lib/vdloo-mesh-events/changed/more")
    mesh.wait_for(lambda: node.run("test -e /var/lib/vdloo-mesh-events/changed").rc != 0, "it is taken away")
    mesh.wait_for(lambda: not goes_on(mesh, VICTIM), "it ends", WORK)
    assert runs(mesh, *NODES) == before
    assert node.check_output("systemctl is-active %s", PATH) == "active"


@pytest.mark.slow
def test_watches_are_taken_up_and_let_go_without_a_restart(mesh, settings):
    hold(mesh, *NODES, services=(SERVICE, EVENT))
    before = mesh.pids(VICTIM)
    for convergers, there in ((list(OTHERS), False), (list(NODES), True)):
        run = mesh.site("-i", str(settings), "-e", json.dumps({"mesh_convergers": convergers}))
        assert run.code == 0, run.output
        assert mesh.node(VICTIM).file("/etc/consul.d/watches.json").exists is there
        assert (mesh.node(VICTIM).run("systemctl is-active %s", PATH).stdout.strip() == "active") is there
    assert mesh.pids(VICTIM) == before
    mesh.node(VICTIM).check_output("systemctl stop %s; rm -rf /var/lib/vdloo-mesh-events/changed", PATH)
    entry = json.dumps({"Node": "x1", "Address": "127.0.0.9"})
    mesh.node(VICTIM).check_output("curl -sf -X PUT -d %s http://127.0.0.1:8500/v1/catalog/register", entry)
    mesh.wait_for(lambda: mesh.node(VICTIM).run("test -e /var/lib/vdloo-mesh-events/changed").rc == 0, "the agent leaves word")
    mesh.node(VICTIM).check_output("curl -sf -X PUT -d %s http://127.0.0.1:8500/v1/catalog/deregister", json.dumps({"Node": "x1"}))
    mesh.node(VICTIM).check_output("systemctl start %s", PATH)


@pytest.mark.slow
def test_hooks_that_are_asked_for_no_more_go_and_those_of_the_user_stay(mesh, settings):
    mine = "/etc/vdloo-mesh/hooks/node_left/mine"
    mesh.node(VICTIM).check_output("printf '#!/bin/sh\\n' >%s && chmod 700 %s", mine, mine)
    run = mesh.site()
    assert run.code == 0, run.output
    again = mesh.site()
    assert (again.code, set(again.changed.values())) == (0, {0}), again.output
    assert mesh.node(VICTIM).check_output("find /etc/vdloo-mesh/hooks -type f") == mine
    mesh.node(VICTIM).check_output("rm %s", mine)
