# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let daemons judge their new files in a staging place that only root reads, before the files are in use."""

from __future__ import annotations

import json
import os
import re
import shutil

# Shorter words are in any message.
SECRET_WORD = 8


class ValidationError(Exception):
    """A daemon refuses its new files, or is not there to judge them."""


def program_of(argv: list[str]) -> str:
    """Name the program that a command runs, also behind `env NAME=value`."""
    words = list(argv)
    if os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if "=" not in word] or words
    return words[0]


def is_there(program: str) -> bool:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path) is not None


def _leaves(value):
    if isinstance(value, dict):
        for entry in value.values():
            yield from _leaves(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield str(value)


def mask(text: str, secrets: list[bytes]) -> str:
    """Hide the words of secret files in what a daemon says of them."""
    for secret in secrets:
        content = secret.decode("utf-8", "replace")
        words = set(re.split(r"[\s\"'`,;(){}\[\]]+", content))
        try:
            # In JSON the names of the settings are no secrets, and help to find the mistake.
            words = set(_leaves(json.loads(content)))
        except ValueError:
            words |= {part for word in words for part in re.split(r"[=:]", word, maxsplit=1)}
        for word in sorted(words, key=len, reverse=True):
            if len(word) >= SECRET_WORD:
                text = text.replace(word, "********")
    return text


class Stage:
    """A staging directory, in which the new files have the paths that they will have on the node."""

    def __init__(self, directory: str, plain: dict, changed: set[str], run, skip_missing: bool) -> None:
        """Take the manifest as manifest_reader.read gives it, the paths whose content changes, and AnsibleModule.run_command."""
        self.directory = directory
        self.files = plain["files"]
        self.checks = plain["checks"]
        self.changed = changed
        self.run = run
        self.skip_missing = skip_missing
        self.secrets = [entry["content"] for entry in self.files.values() if entry["secret"]]

    def validate(self) -> list[str]:
        """Run all that covers a changed path; returns the paths that were found valid."""
        commands = [(path, entry["validate"]) for path, entry in self.files.items() if entry["validate"] and path in self.changed]
        checks = [check for check in self.checks if any(os.path.dirname(path) == check["directory"] for path in self.changed)]
        missing = {program_of(argv) for argv in [argv for _path, argv in commands] + [check["command"] for check in checks]}
        missing = sorted(program for program in missing if not is_there(program))
        if missing and not self.skip_missing:
            raise ValidationError(f"{', '.join(missing)} is not on this node, and has to judge the new files: install it first")
        judged = []
        if commands:
            self._stage_files()
        for path, argv in commands:
            if program_of(argv) not in missing:
                self._judge(path, argv, self._staged(path))
                judged.append(path)
        for number, check in enumerate(checks):
            if program_of(check["command"]) not in missing:
                self._judge(check["directory"], check["command"], self._stage_directory(f"check-{number}", check))
                judged.append(check["directory"])
        return judged

    def _judge(self, path: str, argv: list[str], staged: str) -> None:
        rc, out, err = self.run([part.replace("%s", staged) for part in argv])
        if rc != 0:
            said = f"{out.strip()}\n{err.strip()}".strip().replace(staged, path).replace(f"{self.directory}/files", "")
            command = " ".join(part.replace("%s", path) for part in argv)
            raise ValidationError(
                f"`{command}` refuses the new {path}, so nothing was changed: {mask(said, self.secrets) or f'exit code {rc}'}"
            )

    def _write(self, staged: str, content: bytes) -> str:
        os.makedirs(os.path.dirname(staged), mode=0o700, exist_ok=True)
        with open(staged, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
            stream.write(content)
        return staged

    def _stage_files(self) -> None:
        """Copy all new files. In a copy, the paths of the others lead to their copies: a file is judged with those that it includes."""
        content = {path: self.files[path]["content"] for path in self.changed if path in self.files}
        new = {path: text for path, text in content.items() if text is not None}
        names = b"|".join(re.escape(path.encode()) for path in sorted(new, key=len, reverse=True))
        for path, text in new.items():
            staged = re.sub(
                rb"(?<![\w./-])(?:" + names + rb")(?![\w/-])", lambda found: self._staged(found.group().decode()).encode(), text
            )
            self._write(self._staged(path), staged)

    def _staged(self, path: str) -> str:
        return f"{self.directory}/files{path}"

    def _stage_directory(self, name: str, check: dict) -> str:
        """Copy what the daemon would read, with the new files in it."""
        staged, directory = f"{self.directory}/{name}", check["directory"]
        os.makedirs(staged, mode=0o700)
        for other in os.listdir(directory) if os.path.isdir(directory) else []:
            path = os.path.join(directory, other)
            read = not check["suffixes"] or other.endswith(tuple(check["suffixes"]))
            if read and path not in self.files and os.path.isfile(path):
                shutil.copyfile(path, os.path.join(staged, other))
        for path, entry in self.files.items():
            if os.path.dirname(path) == directory and entry["content"] is not None:
                self._write(os.path.join(staged, os.path.basename(path)), entry["content"])
        return staged
