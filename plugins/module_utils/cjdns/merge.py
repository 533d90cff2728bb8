# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How the configuration of a node comes about, out of what is wished, what its file has and its own secrets. Pure: data in, data out."""

from __future__ import annotations

import json
import re

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf

# The node has an identity of its own.
OWN_KEYS = ("privateKey", "publicKey", "ipv6")


def parse_present(text: str | None) -> tuple[dict | None, bool]:
    """Read the text of a cjdroute.conf, as strict or as lax as it was written; tell whether it is written as conf.dump writes.

    The configuration is {} for a file that is not there, and None when the text cannot be read as one.
    """
    if text is None:
        return {}, True
    try:
        # Old files have comments, and commas before a closing bracket.
        config = json.loads(re.sub(r",(\s*[}\]])", r"\1", conf.strip_comments(text)))
    except ValueError:
        return None, False
    if not isinstance(config, dict) or conf.check_shape(config):
        return None, False
    return config, conf.dump(config) == text


def wished(config: dict, peers: list[dict], present: dict) -> tuple[dict, list[str]]:
    """Place the peers in a configuration; return it with the names of the peers for which no password is known.

    The passwords may as well be digests, if those of the present configuration are. Raises conf.ConfError with everything that is wrong,
    a line each.
    """
    problems = [f"cjdns_config must not set {key}: the node has an identity of its own" for key in OWN_KEYS if key in config]
    problems += [f"cjdns_config, {problem}" for problem in conf.check_shape(config)]
    problems += conf.check_peers(peers)
    if problems:
        raise conf.ConfError("\n".join(problems))
    known, unknown = conf.recall_passwords(peers, present)
    return conf.place_peers(config, known), unknown
