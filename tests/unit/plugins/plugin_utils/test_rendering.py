# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.vdloo.mesh.plugins.plugin_utils import rendering
from hypothesis import given, settings
from hypothesis import strategies as st

DEFAULTS = """
demo_port: 80
demo_name: "{{ demo_prefix }}-{{ demo_port }}"
demo_prefix: web
demo_unused: 1
demo_config: {}
"""
VARS = """
__demo_manifest:
  files:
    - path: /etc/demo.conf
      content: "{{ lookup('ansible.builtin.template', role_path ~ '/templates/demo.conf.j2') }}"
__demo_facts: "{{ demo_never_defined }}"
__demo_color: "{{ 'red' if __demo_facts.fast else 'blue' }}"
"""
TEMPLATE = "name={{ demo_name }} color={{ __demo_color }} {{ demo_config | to_json }}\n"
GIVEN = {"__demo_facts": {"fast": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("roles")
    for name, text in {"defaults/main.yml": DEFAULTS, "vars/main/main.yml": VARS, "templates/demo.conf.j2": TEMPLATE}.items():
        path = root / "demo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def host(folder, monkeypatch):
    """host(variables) is a host with these in the inventory, as YAML gives them."""
    monkeypatch.setattr(rendering, "ROLES", folder)
    monkeypatch.setattr(rendering, "load_extra_vars", lambda _loader: {})
    loader = DataLoader()
    roles = rendering.Roles(loader)

    def make(**variables):
        path = folder / "host.yml"
        path.write_text(yaml.safe_dump(variables))
        return rendering.Host(roles, loader.load_from_file(str(path), cache="none", trusted_as_template=True))

    return make


def content(one, given=None):
    given = given or GIVEN
    return one.role_value("demo", "__demo_manifest", given)["files"][0]["content"]


def inputs(one, given=None):
    return one.inputs("demo", ["__demo_manifest"], given or GIVEN)


def test_a_role_is_rendered_as_its_own_task_would(host):
    assert content(host()) == "name=web-80 color=red {}\n"
    assert content(host(demo_prefix="api", x="shop", demo_port="{{ 40 + 2 }}")) == "name=api-42 color=red {}\n"


def test_what_the_play_hands_over_comes_before_the_variables_of_the_role(host):
    assert content(host(), {"__demo_facts": {"fast": False}, "demo_prefix": "db"}) == "name=db-80 color=blue {}\n"


def test_what_is_returned_is_plain(host):
    value = host(demo_config={"a": ["b"]}).role_value("demo", "demo_config", GIVEN)
    assert (type(value), type(value["a"]), type(value["a"][0])) == (dict, list, str)


@pytest.mark.parametrize(
    "variables",
    [
        {"demo_port": 81},
        {"demo_prefix": "api"},
        {"demo_config": {"deep": ["other"]}},
        {"demo_config": {"deep": "{{ elsewhere }}"}, "elsewhere": 1},
    ],
)
def test_whatever_changes_the_result_changes_the_inputs(host, variables):
    assert content(host(**variables)) != content(host())
    assert inputs(host(**variables)) not in (None, inputs(host()))


def test_a_variable_that_another_one_speaks_of_is_an_input(host):
    nested = {"demo_prefix": "{{ one }}", "one": "{{ two }}"}
    assert inputs(host(**nested, two="a")) != inputs(host(**nested, two="b"))


def test_what_nobody_reads_is_no_input(host):
    assert inputs(host()) == inputs(host(demo_unused=2, stranger="{{ 'x' }}"))


def test_the_facts_of_the_node_are_inputs(host):
    assert inputs(host()) != inputs(host(), {"__demo_facts": {"fast": False}})


@pytest.mark.parametrize(
    "text",
    [
        "{{ lookup('env', 'HOME') }}",
        "{{ lookup('ansible.builtin.template', role_path ~ '/templates/demo.conf.j2') ~ lookup('env', 'HOME') }}",
        "{{ hostvars['n1']['x'] }}",
        "{{ vars['demo_' ~ 'unused'] }}",
        "{{ now() }}",
        "{{ [1, 2] | random }}",
        "{% if query('env', 'HOME') %}x{% endif %}",
    ],
)
def test_what_does_not_follow_from_variables_alone_is_never_remembered(host, text):
    assert inputs(host(demo_prefix=text)) is None
    assert inputs(host(demo_prefix="{{ inner }}", inner=text)) is None


VALUES = st.recursive(
    st.integers() | st.text(alphabet="ab{} ", max_size=6) | st.booleans(), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)


@settings(max_examples=60)
@given(first=VALUES, second=VALUES)
def test_equal_inputs_mean_equal_results(folder, first, second):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "ROLES", folder)
        patch.setattr(rendering, "load_extra_vars", lambda _loader: {})
        roles = rendering.Roles(DataLoader())
        # Without trust no text is a template, and all values are rendered as they are.
        hosts = [rendering.Host(roles, {"demo_config": value}) for value in (first, second)]
        if inputs(hosts[0]) == inputs(hosts[1]):
            assert content(hosts[0]) == content(hosts[1])


def test_a_host_can_be_given_other_values_and_lose_some(host):
    one = host(demo_prefix="api", demo_port=81)
    one.override({"demo_prefix": "{{ never_a_template }}"}, ["demo_port"])
    assert content(one) == "name={{ never_a_template }}-80 color=red {}\n"
    assert (one.value("demo_prefix"), one.value("demo_port", "none")) == ("{{ never_a_template }}", "none")
