# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock in Consul's key/value store: whoever has it converges the mesh.

It belongs to a session that ends by itself when it is not renewed, so that a holder that dies gives it up. Consul ends a session between
one and two times its TTL after the last renewal, and then lets the lock rest for a while; so a holder that stops in time, which lost()
tells, is never at it together with the next one.
"""

from __future__ import annotations

import base64
import json
import threading
import typing

from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock

FOLDER = "/v1/kv/" + client.KV_PREFIX + "lock/"
KEY = FOLDER + "converge"
# What Consul keeps a lock to itself after its session ended without a release.
DELAY_S = 15
# A lock that rests is given to somebody within this; a little more than the delay.
REST_S = DELAY_S + 5.0
RETRY_S = 1.0
# For each of the calls that give it up: who stops a service does not wait for long.
RELEASE_S = 4.0


class Held(Exception):
    """Somebody else has the lock. `holder` is {"node", "pid", "since", "reason"} as far as it told, `session` its session."""

    def __init__(self, holder: dict, session: str) -> None:
        super().__init__(f"{holder.get('node', 'somebody')} has the lock since {holder.get('since', 'some time')}")
        self.holder = holder
        self.session = session


class Resting(Exception):
    """Nobody has the lock, and nobody gets it."""


class Lock:
    """The lock, for a holder that is {"node", "pid", "since", "reason"}."""

    def __init__(self, addr: str, holder: dict, ttl_s: int) -> None:
        self.addr = addr
        self.holder = holder
        self.ttl_s = ttl_s
        self.agent = client.Client(addr)
        self._session = ""
        self._renewed = 0.0
        self._held = False
        self._before: dict = {}
        self._gone = ""
        self._ended = threading.Event()

    def take(self, stopped: threading.Event) -> None:
        """Take the lock. Raises Held, Resting, and ClientError as the agent does; nothing is left in Consul then.

        Only one run at a time goes on on a node, and what it started ends with it: a lock that bears this node's name belongs to a run
        that is dead, and is taken over.
        """
        deadline = clock.seconds() + REST_S
        try:
            while True:
                holder, session = look(self.agent)
                self._before = holder if not session else self._before
                if session and session != self._session:
                    if holder.get("node") != self.holder["node"]:
                        raise Held(holder, session)
                    self._put({"release": session})
                    self.agent.put("/v1/session/destroy/" + session)
                is_over = clock.seconds() > deadline or stopped.is_set()
                try:
                    self._begin()
                except client.ClientError:
                    # A node that has just come back may not be in the leader's catalog yet.
                    if is_over:
                        raise
                else:
                    if self._put({"acquire": self._session}, json.dumps(self.holder).encode()):
                        self._held = True
                        return
                    if is_over or self.lost():
                        raise Resting(self.lost() or "nobody has the lock, but Consul does not give it to this node either")
                stopped.wait(RETRY_S)
        except BaseException:
            self.release()
            raise

    def lost(self) -> str:
        """Why the lock must be taken for lost; empty while it is held."""
        if self._gone:
            return self._gone
        silent = clock.seconds() - self._renewed
        return f"Consul did not renew its session for {silent:.0f} s" if silent > self.ttl_s else ""

    def release(self, outcome: str = "") -> None:
        """Give up the lock and its session, and leave word of what came of it; without an outcome the word of the last run stays.

        What cannot be given up now, as there is no leader, Consul ends.
        """
        word = (
            json.dumps({**self.holder, "ended": clock.now(), "outcome": outcome} if outcome else self._before).encode()
            if self._held
            else b""
        )
        self._ended.set()
        self.agent.timeout = RELEASE_S
        try:
            if self._session and self.agent.leader():
                # In this order: a lock whose session ends while it is held has to rest.
                self._put({"release": self._session}, word)
                self.agent.put("/v1/session/destroy/" + self._session)
        except client.ClientError:
            pass
        finally:
            self._session = ""
            self.agent.close()

    def _begin(self) -> None:
        """Begin a session unless there is one, and keep it alive from now on."""
        if self._session:
            return
        wanted = {
            "Name": "vdloo-mesh-converge",
            "TTL": f"{self.ttl_s}s",
            "Behavior": "release",
            "LockDelay": f"{DELAY_S}s",
            # The TTL alone decides. By the check of gossip a run would lose its lock when it restarts the agent of its own node.
            "Checks": [],
            "NodeChecks": [],
        }
        sent = clock.seconds()
        answer = self.agent.put("/v1/session/create", json.dumps(wanted).encode())
        if not isinstance(answer, dict) or not isinstance(answer.get("ID"), str):
            raise client.ClientError("PUT /v1/session/create: the answer is not what Consul answers")
        self._session, self._renewed = answer["ID"], sent
        # A daemon: a call that hangs must not keep the program from ending.
        threading.Thread(target=self._renew, daemon=True).start()

    def _renew(self) -> None:
        agent, session = client.Client(self.addr), self._session
        pause = self.ttl_s / 3
        while not self._ended.wait(pause):
            # What counts is when it was asked for: an answer may have been on its way for long.
            sent = clock.seconds()
            try:
                status, _headers, _body = agent.request("PUT", "/v1/session/renew/" + session)
                if status == 404:
                    self._gone = "Consul has ended its session"
                elif status == 200 and self._held and look(agent)[1] != session:
                    self._gone = "somebody took it away"
                elif status == 200:
                    self._renewed = sent
                pause = self.ttl_s / 3 if status == 200 else RETRY_S
            except client.ClientError:
                pause = RETRY_S
            if self._gone:
                break
        agent.close()

    def _put(self, params: dict[str, str], body: bytes = b"") -> bool:
        return self.agent.put(KEY, body, params) is True


def look(agent: client.Client, key: str = KEY) -> tuple[dict, str]:
    """Who has the lock, or another one: {"node", "pid", "since", "reason"} as far as the holder told, and its session, empty when nobody has it.

    Of who had it last there is also "ended" and "outcome".
    """
    try:
        # Only the leader knows, once it has made sure that it still is the leader.
        entries = agent.get(key, {"consistent": ""}).value
    except client.NotFound:
        return {}, ""
    entry = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else {}
    try:
        told = json.loads(base64.b64decode(entry.get("Value") or ""))
    except (TypeError, ValueError, RecursionError):
        told = {}
    kinds: dict[str, typing.Any] = {"node": str, "pid": int, "since": str, "reason": str, "ended": str, "outcome": str}
    holder = {name: told[name] for name, kind in kinds.items() if isinstance(told.get(name), kind)} if isinstance(told, dict) else {}
    return holder, str(entry.get("Session") or "")
