# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The variables of a host as a role would see them, on the controller and without running the role."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.release import __version__ as ansible_version
from ansible.template import Templar
from ansible.utils.vars import combine_vars, load_extra_vars
from ansible_collections.vdloo.mesh.plugins.module_utils import collection_files

COLLECTION = Path(__file__).resolve().parents[2]
ROLES = COLLECTION / "roles"
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What does not follow from the variables alone, or from variables that cannot be told from the text.
NOT_PURE = {
    "lookup",
    "query",
    "q",
    "hostvars",
    "vars",
    "varnames",
    "now",
    "random",
    "random_mac",
    "shuffle",
    "password_hash",
    "ansible_date_time",
}
# But for the files of a role, which are part of what the inputs are computed from.
OWN_FILES = re.compile(r"lookup\('ansible\.builtin\.(?:template|file)', (?:role_path|'[\w.-]+')")


class Variable(typing.NamedTuple):
    """A variable as it is written: its value, that as JSON, and all words in its templates. Without JSON it depends on who knows what."""

    value: typing.Any
    text: str | None
    words: frozenset[str]


class Roles:
    """The defaults and variables of the roles of this collection, each read once."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.extra = load_extra_vars(loader)
        self._known: dict[str, tuple[dict, dict]] = {}
        self._described: dict[str, dict[str, Variable]] = {}

    def variables(self, role: str) -> tuple[dict, dict]:
        """The defaults and the variables of a role."""
        if role not in self._known:
            self._known[role] = (self._read(role, "defaults"), self._read(role, "vars"))
        return self._known[role]

    def described(self, role: str) -> dict[str, Variable]:
        """All variables of a role by name."""
        if role not in self._described:
            defaults, variables = self.variables(role)
            self._described[role] = {name: _describe(value, True) for name, value in {**defaults, **variables}.items()}
        return self._described[role]

    def _read(self, role: str, kind: str) -> dict:
        main = ROLES / role / kind / "main.yml"
        files = [main] if main.is_file() else sorted((ROLES / role / kind / "main").glob("*.yml"))
        found: dict = {}
        for path in files:
            found = combine_vars(
                found, self.loader.load_from_file(str(path), cache="none", unsafe=True, trusted_as_template=True) or {}, merge=False
            )
        return found


class Host:
    """One host, its variables not yet templated; see also HostVars.raw_get()."""

    def __init__(self, roles: Roles, raw: dict, leave_out: Iterable[str] = ()) -> None:
        """What is left out is not copied for each template, as everything else is."""
        self.roles = roles
        self.raw = {key: value for key, value in raw.items() if key not in leave_out}
        self._templar = Templar(roles.loader, self.raw)

    def value(self, name: str, default: typing.Any = None) -> typing.Any:
        """One variable of the inventory, templated and plain."""
        if name not in self.raw:
            return default
        return plain(self._templar.template(self.raw[name]))

    def role_value(self, role: str, name: str, given: dict) -> typing.Any:
        """One variable as a task of the role sees it. `given` holds what the play hands to the role, and overrides its own variables."""
        seen = self._seen(role, given)
        path = str(ROLES / role)
        seen.update(role_path=path, ansible_search_path=[path])
        return plain(Templar(self.roles.loader, seen).template(seen[name]))

    def inputs(self, role: str, names: Iterable[str], given: dict) -> str | None:
        """A digest of all that the values of these variables can depend on; None when that cannot be told.

        Every word in a text with a template that is the name of a variable counts as one that is read, and so do those in the role's
        templates. That may be more than is read, and is never less, but for what NOT_PURE names.
        """
        return digest_of(role, self.read(role, {*names, *_words_of_templates(role)}, given))

    def read(self, role: str, names: Iterable[str], given: dict) -> dict[str, Variable]:
        """These variables, as far as they are there, and all that these can read, by name."""
        seen = self._seen(role, given)
        own = self.roles.described(role)
        read: dict[str, Variable] = {}
        waiting = {name for name in names if name in seen}
        while waiting:
            name = waiting.pop()
            # Most are the role's own, and the same for every host.
            read[name] = own[name] if name in own and seen[name] is own[name].value else _describe(seen[name], name in own)
            waiting.update(word for word in read[name].words if word in seen and word not in read)
        return read

    def override(self, values: dict, gone: Iterable[str]) -> None:
        """Have other values than those of the inventory, and no longer have some. What is given with -e stays, as in Ansible itself."""
        self.raw = {**{key: value for key, value in self.raw.items() if key not in gone}, **values}
        self._templar = Templar(self.roles.loader, self.raw)

    def _seen(self, role: str, given: dict) -> dict:
        defaults, variables = self.roles.variables(role)
        return {**defaults, **self.raw, **variables, **given, **self.roles.extra}


def digest_of(role: str, read: dict[str, Variable]) -> str | None:
    """A digest of what was read, for this code of the collection; None when that is not all that counts."""
    if any(variable.text is None for variable in read.values()):
        return None
    text = json.dumps([ansible_version, _code(), role, {name: variable.text for name, variable in read.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: typing.Any) -> typing.Any:
    """Copy a value without Ansible's lazy and tagged types, which compare and serialise in ways of their own."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def _describe(value: typing.Any, own: bool) -> Variable:
    """`own` is a variable of a role, which may read the files of its role."""
    written = plain(value)
    texts = list(templates(written))
    words = frozenset().union(*map(_words, texts))
    pure = not words & NOT_PURE or all(not _words(text) & NOT_PURE or (own and _reads_own_files_only(text)) for text in texts)
    try:
        return Variable(value, json.dumps(written, sort_keys=True) if pure else None, words)
    except TypeError:
        # A vaulted value, or another that is not plain.
        return Variable(value, None, words)


def templates(value: typing.Any) -> Iterator[str]:
    """All texts with a template in a value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from templates(item)
    elif isinstance(value, list):
        for item in value:
            yield from templates(item)
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        yield value


@functools.cache
def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text))


@functools.cache
def _reads_own_files_only(text: str) -> bool:
    rest = OWN_FILES.sub("", text)
    return not _words(rest) & NOT_PURE


@functools.cache
def _words_of_templates(role: str) -> frozenset[str]:
    return frozenset().union(*(_words(path.read_text()) for path in sorted((ROLES / role / "templates").glob("*"))))


@functools.cache
def _code() -> str:
    return collection_files.digest(str(COLLECTION))
