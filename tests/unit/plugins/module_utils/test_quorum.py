# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import random

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import quorum
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent
from hypothesis import given
from hypothesis import strategies as st


def node(name, **facts):
    """A node that answers and may vote; of a server is said that it votes and is well, unless a test says otherwise."""
    usual = {
        "site": "",
        "eligible": True,
        "reachable": True,
        "alive": True,
        "server": facts.get("voter", False),
        "voter": False,
        "leader": False,
    }
    return {"name": name, **usual, "healthy": facts.get("voter", False) and facts.get("alive", True), **facts}


def voters(text, **facts):
    return [node(name, voter=True, **facts) for name in text.split()]


def dead(name, **facts):
    return node(name, voter=True, alive=False, reachable=False, **facts)


def others(text, **facts):
    return [node(name, **facts) for name in text.split()]


def elect(nodes, policy="elect", listed=()):
    return quorum.elect(nodes, policy, list(listed))


def steps(answer):
    return [f"{step['change']} {step['name']}" for step in answer["steps"]]


# A new mesh


@pytest.mark.parametrize(("number", "size"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (12, 5)])
def test_a_new_mesh_starts_with_an_odd_number_and_no_steps(number, size):
    answer = elect([node(f"n{i:02}") for i in range(number)])
    assert (len(answer["servers"]), answer["steps"], answer["refused"]) == (size, [], [])


def test_the_seeds_are_nodes_that_answer_and_may_be_servers():
    nodes = [node("away", reachable=False), node("phone", eligible=False), *others("c d e")]
    assert elect(nodes)["servers"] == ["c", "d", "e"]


def test_the_seeds_are_spread_over_sites_and_then_chosen_by_name():
    nodes = [*others("a b c d e", site="home"), *others("x y", site="cloud")]
    assert elect(nodes)["servers"] == ["a", "b", "c", "x", "y"]


def test_without_a_node_that_may_be_a_server_there_is_no_new_mesh():
    answer = elect([node("phone", eligible=False)])
    assert answer["servers"] == []
    assert "no new mesh can start" in answer["refused"][0]


def test_while_no_voter_is_seen_nobody_is_made_one():
    nodes = [*others("a b", bootstrapped=True), *others("v1 v2 v3", server=True, alive=False, reachable=False)]
    answer = elect(nodes)
    assert (answer["servers"], answer["steps"]) == (["v1", "v2", "v3"], [])
    assert "it needs 2 of v1, v2, v3 back; v1, v2 and v3 are not alive" in answer["refused"][0]
    assert "a and b saw a leader before" in answer["refused"][0]


# A mesh that exists


def test_a_mesh_as_it_should_be_has_no_steps():
    nodes = [*voters("a b c d e"), *others("f g h i")]
    assert elect(nodes) == {"servers": list("abcde"), "steps": [], "refused": [], "warnings": []}


def test_a_dead_voter_is_replaced_and_goes_after_its_substitute_came():
    nodes = [*voters("a b c d"), dead("e"), *others("f g")]
    answer = elect(nodes)
    assert answer["servers"] == ["a", "b", "c", "d", "f"]
    assert steps(answer) == ["promote f", "demote e"]
    assert "takes the place of e" in answer["steps"][0]["why"]
    assert "autopilot removes its vote" in answer["steps"][1]["why"]


def test_a_dead_voter_without_a_substitute_keeps_its_seat():
    answer = elect([*voters("a b"), dead("c"), node("phone", eligible=False)])
    assert (answer["servers"], answer["steps"]) == (["a", "b", "c"], [])


def test_the_substitute_comes_from_the_site_with_the_fewest_voters():
    nodes = [*voters("a b", site="one"), dead("c", site="two"), node("e", site="one"), node("z", site="two")]
    assert steps(elect(nodes)) == ["promote z", "demote c"]


def test_a_former_voter_that_returns_does_not_displace_its_substitute():
    nodes = [node("a", server=True), *voters("b c d e f")]
    answer = elect(nodes)
    assert answer["servers"] == ["b", "c", "d", "e", "f"]
    assert steps(answer) == ["demote a"]


def test_a_former_voter_that_votes_again_does_not_displace_its_substitute_either():
    home = {"site": "home", "since": "2026-05-01T10:00:03.5Z"}
    nodes = [node("a", voter=True, site="alone", since="2026-05-01T10:02:00Z"), *voters("b c d e f", **home)]
    assert steps(elect(nodes)) == ["demote a"]


def test_under_a_new_leader_seconds_do_not_decide_who_goes():
    nodes = [node("a", voter=True, site="alone", since="2026-05-01T10:00:05Z"), *voters("b c d", site="home", since="2026-05-01T10:00:03Z")]
    assert steps(elect(nodes)) == ["demote d"]


def test_of_voters_too_many_one_of_the_largest_site_goes():
    nodes = [*voters("a b c", site="one"), node("d", voter=True, site="two")]
    assert steps(elect(nodes)) == ["demote c"]


def test_the_leader_is_the_last_to_be_demoted():
    nodes = [
        node("a", voter=True, leader=True, eligible=False),
        node("b", voter=True, eligible=False),
        node("c", voter=True),
        *others("d e"),
    ]
    answer = elect(nodes)
    assert answer["servers"] == ["c", "d", "e"]
    assert steps(answer) == ["promote d", "promote e", "demote b", "demote a"]


def test_a_voter_that_is_no_longer_eligible_votes_until_there_is_another():
    assert steps(elect([*voters("a b"), node("c", voter=True, eligible=False)])) == []
    assert steps(elect([*voters("a b"), node("c", voter=True, eligible=False), node("d")])) == ["promote d", "demote c"]
    assert steps(elect([*voters("a b c d"), node("e", voter=True, eligible=False)])) == ["demote d", "demote e"]


def test_a_mesh_grows_by_two():
    assert steps(elect([*voters("a b c"), node("d")])) == []
    assert steps(elect([*voters("a b c"), *others("d e f")])) == ["promote d", "promote e"]


def test_a_fourth_voter_is_one_too_many():
    assert steps(elect(voters("a b c d"))) == ["demote d"]


def test_two_voters_stay_two_until_there_are_three():
    answer = elect([*voters("a b")])
    assert (answer["servers"], answer["steps"]) == (["a", "b"], [])
    assert "tolerate no loss" in answer["warnings"][0]
    assert steps(elect([*voters("a b"), node("c")])) == ["promote c"]


def test_a_surplus_voter_that_no_run_reaches_is_not_the_one_to_go():
    answer = elect([*voters("a b c"), node("d", voter=True, reachable=False)])
    assert steps(answer) == ["demote c"]


def test_a_healthy_voter_is_not_replaced_for_a_slightly_better_spread():
    nodes = [*voters("a b", site="one"), node("c", voter=True, site="two"), *voters("d e", site="three"), *others("x", site="four")]
    assert steps(elect(nodes)) == []


def test_a_site_with_most_of_the_votes_gives_away_one_a_run():
    nodes = [*voters("a b c d e", site="one"), *others("x y", site="two"), *others("z", site="three")]
    answer = elect(nodes)
    assert steps(answer) == ["promote x", "demote e"]
    assert answer["steps"][1]["why"] == "its site has most of the votes"


def test_two_sites_do_not_swap_the_odd_vote_for_ever():
    nodes = [*voters("a b", site="one"), node("c", voter=True, site="two"), node("d", site="two")]
    assert steps(elect(nodes)) == []


def test_a_voter_that_stays_too_ill_keeps_others_from_being_demoted():
    nodes = [*voters("a b"), node("c", voter=True, healthy=False), node("d", voter=True)]
    answer = elect(nodes)
    assert (answer["servers"], answer["steps"]) == (["a", "b", "c", "d"], [])
    assert "d keeps its vote" in answer["refused"][0]
    assert "it needs c to be well" in answer["refused"][0]


def test_a_mesh_without_quorum_is_left_alone_and_told_what_it_needs():
    answer = elect([node("vps1", voter=True), dead("vps2"), dead("vps3"), *others("x y z")])
    assert (answer["servers"], answer["steps"]) == (["vps1", "vps2", "vps3"], [])
    assert "it needs 2 of vps1, vps2, vps3 back; vps2 and vps3 are not alive" in answer["refused"][0]
    assert "peers.json" in answer["refused"][0]


def test_servers_that_are_up_without_being_well_are_named_as_such():
    answer = elect(voters("a b c", healthy=False))
    assert "a, b and c are alive but not healthy" in answer["refused"][0]


# The other policies


def test_with_the_policy_all_every_eligible_node_becomes_a_server():
    answer = elect([*voters("a b c"), *others("d e f g h"), node("phone", eligible=False)], "all")
    assert answer["servers"] == list("abcdefgh")
    assert steps(answer) == [f"promote {name}" for name in "defgh"]
    assert "an odd number is better" in answer["warnings"][0]
    assert "slower" in answer["warnings"][1]


def test_the_policy_all_takes_the_vote_of_who_is_not_eligible():
    assert steps(elect([*voters("a b c"), node("d", voter=True, eligible=False)], "all")) == ["demote d"]


def test_who_is_listed_votes_and_nobody_else():
    answer = elect([node("a", voter=True, leader=True), *voters("b c"), *others("d e f")], "listed", ["c", "d", "e"])
    assert answer["servers"] == ["c", "d", "e"]
    assert steps(answer) == ["promote d", "promote e", "demote b", "demote a"]


def test_who_is_listed_and_cannot_be_a_server_is_named_and_the_seat_stays_with_its_owner():
    nodes = [node("a", voter=True, leader=True), *voters("b c"), node("d", reachable=False), node("phone", eligible=False)]
    answer = elect(nodes, "listed", ["c", "d", "phone", "ghost"])
    assert [text.split(" ")[0] for text in answer["refused"]] == ["d", "ghost", "phone"]
    assert (answer["servers"], answer["steps"]) == (["a", "b", "c"], [])


def test_an_empty_list_changes_nothing():
    answer = elect(voters("a b c"), "listed", [])
    assert (answer["servers"], answer["steps"]) == (["a", "b", "c"], [])
    assert "name some in the group consul_servers" in answer["refused"][0]


def test_a_policy_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="write one of elect, all, listed"):
        elect([], "most")


# All of them


@st.composite
def meshes(draw):
    found = []
    for index in range(draw(st.integers(0, 9))):
        flags = {key: draw(st.booleans()) for key in ("eligible", "reachable", "alive", "server", "voter", "healthy")}
        flags["alive"] = flags["alive"] or flags["reachable"]
        flags["server"] = flags["server"] or flags["voter"]
        found.append(
            {"name": f"n{index}", "site": draw(st.sampled_from(["", "one", "two"])), "leader": False, "bootstrapped": True, **flags}
        )
    for one in found:
        if one["voter"] and one["healthy"] and one["alive"]:
            one["leader"] = True
            break
    return found


@given(meshes(), st.sampled_from(quorum.POLICIES), st.lists(st.sampled_from([f"n{i}" for i in range(10)])), st.randoms())
def test_any_mesh_gets_an_answer_that_keeps_the_quorum_and_knows_no_order(nodes, policy, listed, rng):
    answer = elect(nodes, policy, listed)
    shuffled = rng.sample(nodes, len(nodes))
    assert elect(shuffled, policy, listed[::-1]) == answer
    by_name = {one["name"]: one for one in nodes}
    votes = {one["name"]: one["healthy"] and one["alive"] for one in nodes if one["voter"]}
    if sum(votes.values()) <= len(votes) / 2:
        assert answer["steps"] == []
    changes = [step["change"] for step in answer["steps"]]
    assert changes == sorted(changes, reverse=True)
    for step in answer["steps"]:
        one = by_name[step["name"]]
        if step["change"] == "promote":
            assert one["eligible"]
            assert not one["voter"]
            votes[step["name"]] = True
        elif one["alive"]:
            assert one["reachable"]
            votes.pop(step["name"], None)
        else:
            del votes[step["name"]]
        assert sum(votes.values()) > len(votes) / 2
        assert step["why"]
    if answer["steps"]:
        leaders = [step["name"] for step in answer["steps"] if by_name[step["name"]]["leader"]]
        assert leaders in ([], [answer["steps"][-1]["name"]])


# The model: a mesh with Consul's rules, in which nodes die and return while runs change it


class Mesh:
    """Consul's servers as raft and autopilot treat them. One of two halves of a partition is away: for the runs, it is dead until it returns."""

    def __init__(self, rng, min_quorum):
        self.rng = rng
        self.min_quorum = min_quorum
        self.sites = {f"n{i}": rng.choice(["one", "two", "three"]) for i in range(rng.randint(1, 9))}
        self.eligible = {name for name in self.sites if rng.random() < 0.8} or set(self.sites)
        self.up = set(self.sites)
        self.configured = set(self.look_and_elect()["servers"])
        self.votes = set(self.configured)
        self.leader = min(self.votes)

    def nodes(self):
        seen = self.has_quorum() if hasattr(self, "votes") else False
        return [
            {
                "name": name,
                "site": site,
                "eligible": name in self.eligible,
                "reachable": name in self.up,
                "alive": name in self.up,
                "server": name in getattr(self, "configured", ()),
                "voter": name in getattr(self, "votes", ()),
                "healthy": seen and name in self.votes & self.up,
                "leader": seen and name == self.leader,
                "bootstrapped": hasattr(self, "votes"),
            }
            for name, site in self.sites.items()
        ]

    def look_and_elect(self):
        nodes = self.nodes()
        self.rng.shuffle(nodes)
        return elect(nodes)

    def has_quorum(self):
        return len(self.votes & self.up) >= len(self.votes) // 2 + 1

    def tolerance(self):
        return len(self.votes & self.up) - (len(self.votes) // 2 + 1)

    def settle(self):
        """Autopilot: with a quorum, servers that are up get a vote, and a minority of dead ones loses its."""
        while self.has_quorum():
            gone = self.votes - self.up
            if gone and len(gone) <= (len(self.votes) - 1) // 2 and len(self.votes) - len(gone) >= self.min_quorum:
                self.votes -= gone
            elif (self.configured & self.up) - self.votes:
                self.votes.add(min((self.configured & self.up) - self.votes))
            else:
                break
        if self.has_quorum() and self.leader not in self.votes & self.up:
            self.leader = self.rng.choice(sorted(self.votes & self.up))

    def happen(self):
        """Something of the outside."""
        event = self.rng.random()
        if event < 0.4:
            self.up.discard(self.rng.choice(sorted(self.sites)))
        elif event < 0.5:  # a site is cut off
            self.up -= {name for name in self.sites if self.sites[name] == self.rng.choice(["one", "two", "three"])}
        elif event < 0.6:
            self.up = set(self.sites)
        elif event < 0.7 and len(self.sites) < 12:
            name = f"n{len(self.sites)}"
            self.sites[name] = self.rng.choice(["one", "two", "four"])
            self.eligible.add(name)
            self.up.add(name)
        elif event < 0.8:
            self.eligible ^= {self.rng.choice(sorted(self.sites))}
        else:
            self.up.add(self.rng.choice(sorted(self.sites)))

    def health(self):
        """Autopilot's health, as the gates of the module consul_restart read it."""
        servers = [{"Name": name, "Healthy": name in self.up, "Voter": True} for name in sorted(self.votes)]
        return {"FailureTolerance": max(self.tolerance(), 0), "Servers": servers}

    def execute(self, answer, calm):
        """Do the steps, each behind its gate; a gate that refuses ends the run, as nothing may build on what did not come about."""
        for step in answer["steps"]:
            if not calm and self.rng.random() < 0.4:
                self.happen()
            if calm or self.rng.random() < 0.7:
                self.settle()
            name = step["name"]
            if name not in self.up:
                if name in self.votes and step["change"] == "demote":
                    continue
                return
            had = self.has_quorum()
            if step["change"] == "promote":
                self.configured.add(name)
                if had:
                    self.votes.add(name)  # before autopilot has removed anybody, which is the worst case
                assert self.has_quorum() or not had
                self.settle()
                if agent.return_lack(self.health(), {name}):
                    return
            else:
                if not had or agent.demotion_risk(self.health(), name, set(answer["servers"])):
                    return
                self.configured.discard(name)
                self.votes.discard(name)
                assert self.has_quorum()
                self.settle()


@pytest.mark.parametrize("min_quorum", [0, 3])
@pytest.mark.parametrize("block", range(10))
def test_no_run_costs_a_mesh_its_quorum_whatever_happens_between_two_steps(block, min_quorum):
    for seed in range(100):
        mesh = Mesh(random.Random(f"{block}-{seed}"), min_quorum)
        for _run in range(12):
            for _event in range(mesh.rng.randint(0, 3)):
                mesh.happen()
                if mesh.rng.random() < 0.7:
                    mesh.settle()
            before = set(mesh.votes), set(mesh.configured)
            lost = not mesh.has_quorum()
            answer = mesh.look_and_elect()
            assert mesh.look_and_elect() == answer
            mesh.execute(answer, calm=lost)
            if lost:
                assert answer["steps"] == []
                assert answer["refused"]
                assert (mesh.votes, mesh.configured) == before
        # From here on nothing happens any more.
        mesh.up = set(mesh.sites)
        mesh.settle()
        rounds = 0
        while rounds < 12:
            answer = mesh.look_and_elect()
            if not answer["steps"]:
                break
            rounds += 1
            mesh.execute(answer, calm=True)
            mesh.settle()
        assert rounds < 8, f"seed {block}-{seed} does not converge: {answer}"
        assert mesh.votes == set(answer["servers"])
        able = len(mesh.eligible)
        if len(mesh.votes) != 2 and mesh.votes <= mesh.eligible:
            assert len(mesh.votes) in (1, 3, 5)
        if able >= 3:
            assert mesh.votes <= mesh.eligible
            assert len(mesh.votes) == (5 if able >= 5 else 3)


# Leaving


def leave(nodes, *names):
    """Why these cannot leave, when the servers are chosen as for nodes that are not eligible."""
    marked = [{**entry, "eligible": entry["eligible"] and entry["name"] not in names} for entry in nodes]
    answer = elect(marked)
    return quorum.departure_problem(marked, set(names), answer["servers"]), answer


def test_a_voter_leaves_when_another_one_can_take_its_place():
    problem, answer = leave([*voters("a b c"), *others("d")], "c")
    assert (problem, steps(answer)) == ("", ["promote d", "demote c"])


def test_voters_that_are_well_may_shrink_to_two_and_to_one():
    assert leave(voters("a b c"), "c")[0] == ""
    assert leave(voters("a b"), "b")[0] == ""


def test_a_voter_does_not_leave_voters_that_would_have_no_quorum():
    assert leave([*voters("a"), dead("b"), *voters("c")], "c")[0] == (
        "the 2 voters that stay would have no quorum: b is not well. Repair that first"
    )


def test_the_only_voter_leaves_only_when_another_node_can_be_one():
    assert "no other node is a voter or can become one" in leave([*voters("a"), node("phone", eligible=False)], "a")[0]
    assert leave([*voters("a"), *others("b")], "a")[0] == ""


def test_whoever_does_not_vote_may_always_leave():
    assert leave([*voters("a"), dead("b"), *voters("c"), *others("d")], "d")[0] == ""


@given(st.integers(1, 5), st.integers(0, 2), st.integers(0, 3), st.integers(1, 5))
def test_whatever_is_allowed_leaves_a_quorum(well, ill, idle, number):
    nodes = [
        *voters(" ".join(f"v{i}" for i in range(well))),
        *(dead(f"x{i}") for i in range(ill)),
        *others(" ".join(f"o{i}" for i in range(idle))),
    ]
    names = [f"v{i}" for i in range(min(number, well))]
    problem, answer = leave(nodes, *names)
    stay = {f"v{i}" for i in range(well)} - set(names)
    promoted = {step["name"] for step in answer["steps"] if step["change"] == "promote"}
    voting = len(stay) + ill + len(promoted - stay)
    if not problem:
        assert len(stay) + len(promoted) >= quorum.majority(voting)
