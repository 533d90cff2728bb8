# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What may be told of a node's configuration to others: all of it, with a digest in the place of every secret.

With it can be foreseen elsewhere whether M(vdloo.mesh.cjdns_config) would change the file of the node.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, identity, keys, live, merge

DIGEST_CHARS = 16
# Stands for a password that nobody has told; it is the digest of none.
UNKNOWN = "unknown"


def digest(secret) -> str:
    """What is told in the place of a secret. An empty one is told as it is, as it keeps nothing secret."""
    if not secret:
        return ""
    text = secret if isinstance(secret, str) else "not a text: " + json.dumps(secret, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]


def without_secrets(config):
    """The same configuration with a digest in the place of each secret, at any depth."""
    if isinstance(config, dict):
        return {key: digest(value) if key in conf.SECRET_KEYS else without_secrets(value) for key, value in config.items()}
    if isinstance(config, list):
        return [without_secrets(item) for item in config]
    return config


def derived(link_secret: str, public_keys: list[str]) -> dict[str, str]:
    """The digests of the passwords that a listener with this link secret gives to these diallers: {public key: digest}."""
    return {key: digest(keys.link_password(link_secret, key)) for key in public_keys}


# ---------------------------------------------------------------- telling


def describe(config_path: str = "/etc/cjdroute.conf", identity_directory: str = "/etc/cjdns") -> dict:
    """Tell the configuration of this node without its secrets; never raises.

    {"config": all of it, with digests and without the private key,
     "dials": {endpoint: {"public_key", "password" (digest), "login", "peer_name"}}, "accepts": {user: digest},
     "problem": why the file will be written anew whatever is wished, else ""}
    """
    told: dict = {"config": {}, "dials": {}, "accepts": {}, "problem": ""}
    try:
        text = identity.read_text(config_path)
        status = os.stat(config_path)
    except FileNotFoundError:
        return dict(told, problem=f"{config_path} is missing")
    except (OSError, identity.IdentityError):
        return dict(told, problem=f"{config_path} cannot be read")
    config, ours = merge.parse_present(text)
    if config is None:
        return dict(told, problem=f"{config_path} is no configuration of cjdns")
    public = without_secrets({key: value for key, value in config.items() if key != "privateKey"})
    told.update(config=public, dials=_dials(public), accepts=_accepts(public))
    if not ours:
        told["problem"] = f"{config_path} is not written as the role writes it"
    elif stat.S_IMODE(status.st_mode) != 0o600 or status.st_uid != os.geteuid():
        told["problem"] = f"{config_path} is not for root alone"
    else:
        told["problem"] = _identity_problem(config, config_path, identity_directory)
    return told


def _identity_problem(config: dict, config_path: str, directory: str) -> str:
    """Whether the configuration has the node's own secrets; empty when it has."""
    try:
        own = identity.read_file(os.path.join(directory, "identity.json"))
        password = identity.read_text(os.path.join(directory, "admin-password"))
    except (OSError, identity.IdentityError):
        return f"the identity in {directory} cannot be read"
    if own is None or password is None:
        return f"{directory} does not hold an identity and an admin password"
    if tuple(config.get(key) for key in merge.OWN_KEYS) != own:
        return f"{config_path} does not have the identity in {directory}"
    admin = config.get("admin")
    if not isinstance(admin, dict) or admin.get("password") != password.strip():
        return f"{config_path} does not have the admin password in {directory}"
    return ""


def _dials(public: dict) -> dict[str, dict]:
    found = {}
    names = (("public_key", "publicKey"), ("password", "password"), ("login", "login"), ("peer_name", "peerName"))
    for interface in conf.udp_interfaces(public):
        for endpoint, entry in interface.get("connectTo", {}).items():
            found[endpoint] = {name: entry.get(key, "") for name, key in names}
    return found


def _accepts(public: dict) -> dict[str, str]:
    return {str(entry["user"]): entry.get("password", "") for entry in public.get("authorizedPasswords", []) if "user" in entry}


# ---------------------------------------------------------------- comparing


def drift(described: dict, wanted_config: dict, dials: list[dict], accepts: list[dict]) -> list[str]:
    """Why the module cjdns_config would write the file of a node anew: a text for each place that differs, [] when it would not.

    `described` is what describe() told. `wanted_config` is the configuration without the node's own secrets; its authorizedPasswords, if it
    has any, come before `accepts`. `dials` is [{"name", "address", "public_key", "login", "password_digest"}], `accepts` is
    [{"user", "password_digest"}]; without a digest the password of the file counts as the right one.
    """
    if described["problem"]:
        return [described["problem"]]
    present = described["config"]
    config = without_secrets(wanted_config)
    if "authorizedPasswords" not in config:
        # Sorted as Jinja does it.
        config["authorizedPasswords"] = [
            {"user": entry["user"], "password": entry.get("password_digest") or described["accepts"].get(entry["user"], UNKNOWN)}
            for entry in sorted(accepts, key=lambda entry: entry["user"].lower())
        ]
    peers = [dict(peer, password=peer.get("password_digest") or None) for peer in dials]
    try:
        wanted, _unknown = merge.wished(config, peers, present)
    except conf.ConfError as error:
        return str(error).splitlines()
    # These the description has found right.
    wanted.update({key: present[key] for key in merge.OWN_KEYS if key in present})
    wanted["admin"] = dict(wanted.get("admin") or {}, password=present["admin"]["password"])
    if conf.dump(wanted) == conf.dump(present):
        return []
    return _reasons(present, wanted) or ["the configuration of cjdns differs"]


def _reasons(present: dict, wanted: dict) -> list[str]:
    one, two = live.split(present), live.split(wanted)
    reasons = [f"cjdroute.conf, {place} differs" for place in live.differences(one.rest, two.rest)]
    for place in sorted({*one.dials, *two.dials}, key=str):
        has, wants = one.dials.get(place), two.dials.get(place)
        if has is None or wants is None:
            reasons.append(f"{(has or wants).words()} is {'not dialled' if has is None else 'dialled, but is no peer any more'}")
        elif has != wants:
            reasons.append(f"{wants.words()} is dialled with another name, key, login or password")
    for user in sorted({*one.users, *two.users}):
        has, wants = one.users.get(user), two.users.get(user)
        if has is None or wants is None:
            reasons.append(f"{user} is {'not accepted' if has is None else 'accepted, but is no peer any more'}")
        elif has != wants:
            reasons.append(f"{user} is accepted with another password")
    if not reasons and present.get("authorizedPasswords") != wanted.get("authorizedPasswords"):
        reasons.append("those who are accepted stand in another order")
    return reasons
