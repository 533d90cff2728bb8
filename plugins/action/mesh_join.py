# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judges on the controller who may join, without a remote call. The documentation is in the module of this name."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.vdloo.mesh.plugins.plugin_utils import membership, rendering

# What ssh says, and what to do about it.
CURES = {
    "Host key verification failed": (
        "its SSH host key is not the one that is known here, or none is known: compare its fingerprint (ssh-keygen -lf on it) and log in once by hand, "
        "or put the key into your known_hosts"
    ),
    "Permission denied": (
        "it does not let you in: come with a key of your own (ssh -A to a node, then its agent is used), name its file with join_key_file, or give a "
        "password with -k"
    ),
}


class ActionModule(ActionBase):
    """One call for all hosts: use it with run_once."""

    _supports_check_mode = True
    _supports_diff = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(
            {"look": {"type": "str", "required": True}, "targets": {"type": "dict", "required": True}}
        )
        answers = {}
        for name in task_vars["ansible_play_hosts_all"]:
            raw = task_vars["hostvars"].raw_get(name)
            answers[name] = rendering.plain(raw.get(arguments["look"]) or {})
        problems = [
            f"{target}: {_unlooked(answers.get(target, {}))}"
            for target in sorted(arguments["targets"])
            if not _is_look(answers.get(target, {}))
        ]
        newcomers = [
            membership.Newcomer(target, str(name), answers[target])
            for target, name in sorted(arguments["targets"].items())
            if _is_look(answers.get(target, {}))
        ]
        looks = {name: answer for name, answer in answers.items() if name not in arguments["targets"] and _is_look(answer)}
        more, already = membership.admit(newcomers, looks)
        if problems or more:
            raise AnsibleActionFail("\n".join([*problems, *more, "Nothing was changed."]))
        return {"changed": False, "names": {newcomer.target: newcomer.name for newcomer in newcomers}, "already": already}


def _is_look(answer: dict) -> bool:
    return all(isinstance(answer.get(part), dict) for part in ("system", "mesh", "cjdns", "consul"))


def _unlooked(answer: dict) -> str:
    """Why a newcomer could not be looked at."""
    said = " ".join(str(answer.get(part) or "") for part in ("msg", "module_stderr")).strip() or "no answer"
    cure = next((cure for told, cure in CURES.items() if told in said), "")
    if not cure and not answer.get("unreachable"):
        cure = "it needs Python 3.8 or later, as root or by sudo"
    return f"{cure or 'it cannot be reached by SSH'} ({' '.join(said.split())[:600]})"
