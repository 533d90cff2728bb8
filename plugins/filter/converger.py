# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role converger computes of its variables. All functions are pure: data in, data out."""

from __future__ import annotations

import json
import re

from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import hooks, membership
from ansible_collections.vdloo.mesh.plugins.plugin_utils.rendering import plain

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEYS = {"event", "name", "content", "when", "each_node", "timeout"}


def hook_files(listed: list[dict], folder: str) -> list[dict]:
    """The files of the hooks as a manifest takes them. Raises AnsibleFilterError for a hook that is wrong, with what to do."""
    found: dict[str, dict] = {}
    names: set[tuple[str, str]] = set()
    for number, hook in enumerate(plain(listed)):
        where = f"converger_hooks[{number}]"
        problem = _problem(hook)
        if problem:
            raise AnsibleFilterError(f"{where}: {problem}")
        stem = _stem(hook["name"])
        if (hook["event"], stem) in names:
            raise AnsibleFilterError(f"{where}: {hook['event']} has another hook of the name {stem}: give this one another name")
        names.add((hook["event"], stem))
        place = f"{folder}/{hook['event']}"
        settings = {"timeout_s": hook.get("timeout", hooks.NO_SETTINGS["timeout_s"]), "each_node": hook.get("each_node", False)}
        texts = {hook["name"]: hook["content"], stem + hooks.SETTINGS: json.dumps(settings) + "\n"}
        if hook.get("when"):
            texts[stem + hooks.WHEN] = hook["when"]
        found.update({f"{place}/{file}": {"content": text} for file, text in texts.items()})
    return [
        # Once they are asked for no more they go, which a hook that lies there by hand does not.
        {"path": path, "mode": "0600" if path.endswith((hooks.SETTINGS, *hooks.PLAYBOOKS)) else "0700", "drop": True, **entry}
        for path, entry in sorted(found.items())
    ]


def _problem(hook: object) -> str:
    if not isinstance(hook, dict):
        return "it is no dictionary: write event, name and content"
    unknown = sorted(set(hook) - KEYS)
    if unknown:
        return f"{', '.join(unknown)} is not known: the keys are {', '.join(sorted(KEYS))}"
    missing = [key for key in ("event", "name", "content") if not isinstance(hook.get(key), str) or not hook[key]]
    if missing:
        return f"{', '.join(missing)} is missing or no text"
    if hook["event"] not in membership.EVENTS:
        return f"{hook['event']} is no event: write one of {', '.join(membership.EVENTS)}"
    name = hook["name"]
    if not NAME.fullmatch(name) or name.endswith((hooks.WHEN, hooks.SETTINGS, *hooks.BACKUPS)) or not _stem(name):
        return f"the name {name!r} is not one for a file: write letters, digits, - and _, and .yml after that of a playbook"
    if not isinstance(hook.get("when") or "", str):
        return "when is no text: write the program that says with exit code 0 that the hook is to run"
    if not isinstance(hook.get("each_node", False), bool):
        return f"each_node is {hook['each_node']!r}: write true or false"
    seconds = hook.get("timeout", hooks.NO_SETTINGS["timeout_s"])
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not hooks.LEAST_TIMEOUT_S <= seconds <= hooks.MOST_TIMEOUT_S:
        return f"timeout is {seconds!r}: write a number of seconds from {hooks.LEAST_TIMEOUT_S} to {hooks.MOST_TIMEOUT_S}"
    return ""


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if name.endswith(hooks.PLAYBOOKS) else name


class FilterModule:
    """The filters of the converger role."""

    def filters(self):
        return {"hook_files": hook_files}
