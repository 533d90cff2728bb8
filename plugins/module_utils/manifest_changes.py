# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From a manifest and what is on the node to the changes that are needed, and how these are shown."""

from __future__ import annotations

import os

from ansible_collections.vdloo.mesh.plugins.module_utils import file_set, on_disk
from ansible_collections.vdloo.mesh.plugins.module_utils.file_set import Change, Version
from ansible_collections.vdloo.mesh.plugins.module_utils.manifest_reader import ManifestError


def version_of(kind: str, entry: dict, content: bytes, owners: on_disk.Accounts) -> Version:
    return Version(kind, content, int(entry["mode"], 8), owners.uid(entry["owner"]), owners.gid(entry["group"]))


def missing_parents(path: str, known) -> list[str]:
    """List the directories above a path that neither exist nor are among the known ones, the outermost first."""
    parents = []
    parent = os.path.dirname(path)
    while not os.path.isdir(parent) and parent not in known:
        parents.insert(0, parent)
        parent = os.path.dirname(parent)
    return parents


def compare(plain: dict, recorded: dict | None, check_mode: bool) -> list[Change]:
    """List what has to change, directories first. Fails on all that would stop the change half way."""
    owners = on_disk.Accounts(lenient=check_mode)
    changes = []
    for path, entry in sorted(plain["directories"].items()):
        for parent in missing_parents(path, {*plain["directories"], *(change.path for change in changes)}):
            changes.append(Change(parent, Version(), Version(file_set.DIRECTORY, b"", 0o755, 0, 0)))
        changes.append(Change(path, file_set.find_directory(path), version_of(file_set.DIRECTORY, entry, b"", owners)))
    coming = {change.path for change in changes}
    for path, entry in plain["files"].items():
        before = file_set.find_file(path)
        if entry["content"] is None:
            after = Version()
        else:
            after = version_of(file_set.FILE, entry, entry["content"], owners)
            if not check_mode and missing_parents(path, coming):
                raise ManifestError(f"{os.path.dirname(path)} is not there for {path}: add it to the directories of the manifest")
        known = ((recorded or {}).get("files") or {}).get(path) or {}
        # What only some accounts may read and nobody has recorded may be a secret of an earlier version.
        secret = entry["secret"] or known.get("secret", False) or (entry["content"] is None and not known and not before.mode & 0o004)
        changes.append(Change(path, before, after, secret))
    changes += dropped(plain, recorded or {})
    if owners.unknown:
        raise ManifestError(f"{' and '.join(owners.unknown)} of the manifest must be on the node before its files: create them first")
    return [change for change in changes if change.before != change.after]


def dropped(plain: dict, recorded: dict) -> list[Change]:
    """Files that were asked for with `drop`, and are not any more. What somebody has put in the place of one stays."""
    gone = {
        path: entry for path, entry in (recorded.get("files") or {}).items() if path not in plain["files"] and entry.get("drop") is True
    }
    return [
        Change(path, file_set.find_file(path), Version(), entry.get("secret") is True)
        for path, entry in sorted(gone.items())
        if os.path.isfile(path) and not os.path.islink(path)
    ]


def describe(version: Version, secret: bool, shown_as: str) -> str:
    if version.kind != file_set.FILE:
        return ""
    return f"({shown_as})\n" if secret else version.content.decode("utf-8", "replace")


def differences(changes: list[Change], record: str) -> list[dict]:
    """Build the diff: contents, then owner and mode where these change."""
    parts = []
    for change in changes:
        before, after = change.before, change.after
        if change.of_content and file_set.FILE in (before.kind, after.kind):
            texts = (
                describe(before, change.secret, "the old content, not shown"),
                describe(after, change.secret, "other content, not shown"),
            )
            parts.append({"before_header": change.path, "after_header": change.path, "before": texts[0], "after": texts[1]})
        created = before.kind == file_set.ABSENT and after.kind == file_set.FILE
        if change.path != record and not created and after.kind != file_set.ABSENT and before[2:] != after[2:]:
            texts = (
                "" if version.kind == file_set.ABSENT else f"{version.mode:04o} {version.uid}:{version.gid}\n"
                for version in (before, after)
            )
            header = f"{change.path} (mode and owner)"
            parts.append({"before_header": header, "after_header": header, "before": next(texts), "after": next(texts)})
        if after.kind == file_set.ABSENT and before.kind == file_set.DIRECTORY:
            parts.append({"before_header": change.path, "after_header": change.path, "before": "directory\n", "after": ""})
    return parts
