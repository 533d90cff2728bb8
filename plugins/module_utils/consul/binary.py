# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Consul binary of a node: its version, and whether it is the one that was asked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess

MINIMUM = (1, 8, 0)
VERSION_S = 60
# Where the vendor's build for 32-bit ARM got its present name.
ARM_NAME_SINCE = (1, 11, 0)

RELEASE_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
}


class BinaryError(Exception):
    """The binary cannot be used; the message says why."""


def parse_version(text: str) -> tuple[int, int, int]:
    """Read the numbers at the start of a version; what is missing counts as 0. ValueError when there is none."""
    match = re.match(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?", text)
    if not match:
        raise ValueError(f"{text!r} is no version")
    return int(match[1]), int(match[2] or 0), int(match[3] or 0)


def release_file(version: str, architecture: str) -> str:
    """Name the vendor's archive of a version for an architecture."""
    if architecture == "arm" and parse_version(version) < ARM_NAME_SINCE:
        architecture = "armhfv6"
    return f"consul_{version}_linux_{architecture}.zip"


def run_version(path: str, name: str = "") -> str:
    """Run `consul version` and return it, without the leading v. The name is for the messages."""
    name = name or path
    try:
        result = subprocess.run([path, "version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=VERSION_S, check=False)
    except OSError as error:
        raise BinaryError(f"{name} does not run here ({os.uname().machine}): {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BinaryError(f"{name} did not tell its version within {VERSION_S} s") from error
    text = result.stdout.decode("utf-8", "replace")
    match = re.match(r"Consul v(\d+\.\d+\.\d+\S*)", text)
    if result.returncode != 0 or not match:
        said = f"its version command says {text.strip()[:200]!r}, exit code {result.returncode}"
        raise BinaryError(f"{name} is no Consul ({said})")
    return match[1]


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: str) -> list[int]:
    """What changes whenever a file is replaced or written; a stat instead of a digest over 100 MB."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def read_stamp(path: str) -> dict:
    """Read what is known of the installed binary; nothing when the file is missing or not ours."""
    try:
        with open(path, encoding="utf-8") as stream:
            stamp = json.load(stream)
    except (FileNotFoundError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def make_stamp(source: str, digest: str, path: str, version: str) -> dict:
    return {"source_sha256": source, "binary_sha256": digest, "fingerprint": fingerprint(path), "version": version}


def is_installed(path: str, stamp: dict, source: str) -> bool:
    """Tell whether the binary at `path` is the one that came out of the source with this SHA-256."""
    if stamp.get("source_sha256") != source or not os.path.isfile(path):
        return False
    return stamp.get("fingerprint") == fingerprint(path) or stamp.get("binary_sha256") == sha256(path)
