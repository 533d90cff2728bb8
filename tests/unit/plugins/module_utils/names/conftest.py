# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import answers, config, gossip
from fake_names import WEB, Answers, FakeAgent


@pytest.fixture
def fake():
    with FakeAgent().running() as running:
        running.catalog = WEB
        yield running


@pytest.fixture
def settings(fake, tmp_path):
    (tmp_path / "registry.json").write_text(json.dumps({"n1": {"state": "member", "address": "fc00::1"}}))
    return config.Config(
        listen=config.Server("127.0.0.1", 0),
        consul_domain="consul",
        consul_dns=fake.dns_at,
        consul_http=fake.http_at,
        mesh_domain="mesh",
        registry=str(tmp_path / "registry.json"),
        snapshot=str(tmp_path / "snapshot.json"),
        max_age=3600,
    )


@pytest.fixture
def names(settings, monkeypatch):
    # Each question of a test sees the agent as the test has set it.
    monkeypatch.setattr(gossip, "MEMBERS_EVERY_S", 0)
    monkeypatch.setattr(answers, "LEADER_EVERY_S", 0)
    monkeypatch.setattr(gossip, "REJOIN_S", 0)
    return Answers(settings)
