# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the route of a published service comes to every node: it is in the record of the nodes that publish it, and in what h2o is given everywhere."""

from __future__ import annotations

import copy

import planned
import pytest
from ansible_collections.vdloo.mesh.plugins.plugin_utils import plan
from planned import NODES, NOW, asked, converged, render

WEB = {"host": "web.example.org", "path": "/", "service": "web", "port": 8080}


def publish(looks: dict, name: str, route: dict) -> None:
    managed = {"files": {}, "directories": {}, "programs": {}, "services": {}}
    looks[name]["manifests"]["service_" + route["service"]] = {"facts": {"route": route}, **managed}


def make(looks: dict, **changes) -> dict:
    return plan.make(looks, asked(**changes), render, NOW)


def brought(looks: dict, made: dict) -> dict:
    """The looks after the plan was carried out."""
    looks = copy.deepcopy(looks)
    for name, found in looks.items():
        found["mesh"]["registry"] = made["registry"]
        found["manifests"]["h2o"] = planned.observed("h2o", made["hosts"][name]["h2o"])
        found["consul"]["registry"] = {
            other: planned.digest.of(record)[: planned.look.DIGEST_CHARS] for other, record in made["registry"].items()
        }
    return looks


def given(made: dict) -> dict[str, list[dict]]:
    return {name: host["h2o"]["h2o_mesh_routes"] for name, host in made["hosts"].items()}


def test_a_route_of_one_node_is_given_to_every_node_and_then_nothing_is_left_to_do():
    looks = converged()
    publish(looks, "n1", WEB)
    made = make(looks)
    assert made["registry"]["n1"]["routes"] == [WEB]
    assert "routes" not in made["registry"]["n2"]
    assert given(made) == dict.fromkeys(NODES, [WEB])
    assert [line for line in made["lines"] if "h2o" in line] == [f"{name}: h2o: /etc/h2o.conf differs" for name in NODES]
    after = make(brought(looks, made))
    assert (after["lines"], after["groups"], after["warnings"]) == ([], [], [])


def test_a_service_that_comes_to_speak_over_websockets_is_a_change_on_every_node():
    looks = converged()
    publish(looks, "n1", WEB)
    looks = brought(looks, make(looks))
    publish(looks, "n1", {**WEB, "websocket": True})
    made = make(looks)
    assert made["registry"]["n1"]["routes"] == [{**WEB, "websocket": True}]
    assert given(made) == dict.fromkeys(NODES, [{**WEB, "websocket": True}])
    assert [line for line in made["lines"] if "h2o" in line] == [f"{name}: h2o: /etc/h2o.conf differs" for name in NODES]


def test_a_service_without_a_route_is_nothing_to_the_plan():
    looks = converged()
    publish(looks, "n1", WEB)
    looks["n1"]["manifests"]["service_web"]["facts"] = {}
    assert make(looks)["lines"] == []


def test_a_route_that_no_node_tells_of_any_more_goes_from_all():
    looks = converged()
    publish(looks, "n1", WEB)
    looks = brought(looks, make(looks))
    del looks["n1"]["manifests"]["service_web"]
    made = make(looks)
    assert "routes" not in made["registry"]["n1"]
    assert given(made) == dict.fromkeys(NODES, [])
    assert make(brought(looks, made))["lines"] == []


def test_a_node_that_is_not_reached_keeps_its_routes():
    looks = converged()
    publish(looks, "n3", WEB)
    looks = brought(looks, make(looks))
    del looks["n3"]
    made = make(looks)
    assert given(made) == {"n1": [WEB], "n2": [WEB]}
    assert [line for line in made["lines"] if "h2o" in line] == []


def test_a_look_that_did_not_get_to_the_manifests_takes_no_route_away():
    looks = converged()
    publish(looks, "n1", WEB)
    looks = brought(looks, make(looks))
    looks["n1"]["manifests"] = {}
    assert make(looks)["registry"]["n1"]["routes"] == [WEB]


def test_two_services_at_one_place_are_told_and_the_first_by_name_counts():
    looks = converged()
    publish(looks, "n1", WEB)
    publish(looks, "n2", {**WEB, "service": "api"})
    made = make(looks)
    assert given(made) == dict.fromkeys(NODES, [{**WEB, "service": "api"}])
    assert [text for text in made["warnings"] if "web.example.org/ is claimed by the service api (on n2)" in text]


@pytest.mark.parametrize(("own", "told"), [({**WEB, "service": "other"}, True), (WEB, False), ({**WEB, "host": "x"}, False)])
def test_a_route_that_the_operator_gives_to_another_is_told(monkeypatch, own, told):
    looks = converged()
    publish(looks, "n1", WEB)
    monkeypatch.setattr(planned, "OWN_ROUTES", [own])
    warnings = [text for text in make(looks)["warnings"] if "h2o_routes has another" in text]
    assert warnings == (
        [
            "the route web.example.org/ is not that of the service web on n1, n2, n3: h2o_routes has another for this host and path, "
            "which counts more"
        ]
        if told
        else []
    )
