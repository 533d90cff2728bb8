# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import re
import types

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import authorized_keys
from hypothesis import given
from hypothesis import strategies as st

KEY = {name: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5" + letter * 48 for name, letter in zip(("n1", "n2", "n3"), "BCD")}
LAPTOP = b"ssh-rsa AAAAB3NzaC1yc2E= me@laptop\n"
FOREIGN = st.binary(max_size=40).filter(lambda text: authorized_keys.MARK.encode() not in text)
KEYS = st.dictionaries(st.sampled_from(sorted(KEY)), st.sampled_from(sorted(KEY.values())))


def lines(content: bytes) -> list[bytes]:
    return [text for text in re.findall(rb"[^\n]*\n|[^\n]+", content) if authorized_keys.MARK.encode() not in text]


def test_a_line_lets_a_node_in_over_the_overlay_and_for_commands_only():
    assert authorized_keys.line("n1", KEY["n1"]).decode() == f'from="fc00::/8",restrict {KEY["n1"]} vdloo-mesh:n1\n'


@given(foreign=st.lists(FOREIGN, max_size=3), before=KEYS, after=KEYS)
def test_the_keys_are_exactly_those_and_every_other_byte_stays(foreign, before, after):
    content = b"\n".join(foreign)
    content = authorized_keys.changed(content, before)
    result = authorized_keys.changed(content, after)
    assert authorized_keys.told(result) == after
    assert authorized_keys.changed(result, after) == result
    # A last line without an end gets one, before ours.
    assert b"".join(lines(result)).rstrip(b"\n") == b"\n".join(foreign).rstrip(b"\n")


def test_no_change_leaves_even_an_unfinished_last_line():
    assert authorized_keys.changed(LAPTOP.rstrip(b"\n"), {}) == LAPTOP.rstrip(b"\n")
    content = LAPTOP + authorized_keys.line("n1", KEY["n1"]).rstrip(b"\n")
    assert authorized_keys.changed(content, {"n1": KEY["n1"]}) == content


def test_lines_keep_their_places_and_new_ones_come_last():
    content = authorized_keys.line("n2", KEY["n2"]) + LAPTOP + authorized_keys.line("n1", KEY["n1"])
    after = authorized_keys.changed(content, {"n2": KEY["n2"], "n3": KEY["n3"]})
    assert after == authorized_keys.line("n2", KEY["n2"]) + LAPTOP + authorized_keys.line("n3", KEY["n3"])


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY['n1']} vdloo-mesh:n1\n",
        f'from="::/0",restrict {KEY["n1"]} vdloo-mesh:n1\n',
        f'  from="fc00::/8",restrict {KEY["n1"]} vdloo-mesh:n1\n',
        f'from="fc00::/8",restrict {KEY["n1"]} vdloo-mesh:n1\r\n',
        f'from="fc00::/8",restrict {KEY["n1"]} vdloo-mesh:n1\n' * 2,
        f'from="fc00::/8",restrict {KEY["n1"]} vdloo-mesh:n1\nssh-ed25519 AAAA vdloo-mesh:n1\n',
    ],
)
def test_a_line_of_a_node_that_says_more_or_less_is_put_right(text):
    assert authorized_keys.told(text.encode()) == {"n1": ""}
    assert authorized_keys.changed(text.encode(), {"n1": KEY["n1"]}) == authorized_keys.line("n1", KEY["n1"])
    assert authorized_keys.changed(LAPTOP + text.encode(), {}) == LAPTOP


@pytest.mark.parametrize(
    "text", [b"# ssh-ed25519 AAAA vdloo-mesh:n1\n", b"ssh-ed25519 AAAA vdloo-mesh:N1!\n", b"ssh-ed25519 AAAA my vdloo-mesh:n1 key\n"]
)
def test_a_comment_or_a_mark_elsewhere_is_somebody_elses(text):
    assert authorized_keys.told(text) == {}
    assert authorized_keys.changed(text, {}) == text


def test_a_key_of_another_node_under_a_name_is_replaced():
    content = authorized_keys.line("n1", KEY["n2"])
    assert authorized_keys.changed(content, {"n1": KEY["n1"]}) == authorized_keys.line("n1", KEY["n1"])


def test_what_is_no_file_is_nothing_and_never_waited_for(tmp_path, monkeypatch):
    home = tmp_path / "home"
    accounts = {"me": types.SimpleNamespace(pw_dir=str(home))}
    monkeypatch.setattr(authorized_keys.pwd, "getpwnam", accounts.__getitem__)
    assert authorized_keys.let_in("me") == authorized_keys.let_in("nobody-here") == {}
    (home / ".ssh").mkdir(parents=True)
    path = home / ".ssh" / "authorized_keys"
    os.mkfifo(path)
    assert authorized_keys.let_in("me") == {}
    with pytest.raises(ValueError, match="is not a plain file"):
        authorized_keys.read(str(path))
    path.unlink()
    path.write_bytes(LAPTOP + authorized_keys.line("n1", KEY["n1"]))
    assert authorized_keys.let_in("me") == {"n1": KEY["n1"]}
