# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A steady load of HTTP requests: each begins at its own time, whatever became of those before it."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import typing

# What a person would wait for.
PATIENCE_S = 10.0


class Outcome(typing.NamedTuple):
    """One request. Times are in seconds of the monotonic clock, which all containers share with this machine."""

    begun: float
    ended: float
    ok: bool
    via: str  # the ingress that answered, or that was asked last
    said: str  # the body, or why there is none


async def request(ingresses: typing.Sequence[str], path: str, port: int = 80, patience: float = PATIENCE_S) -> Outcome:
    """Make one request, new connection and all. An ingress that takes no connection is passed over, as a client with several addresses does."""
    begun, said, via = time.monotonic(), "no ingress", ""
    for via in ingresses:
        try:
            said = await asyncio.wait_for(_ask(via, port, path), max(0.01, begun + patience - time.monotonic()))
        except (asyncio.TimeoutError, TimeoutError):
            said = f"no answer within {patience:g} s"
            break
        except ConnectionRefusedError as error:
            said = error.strerror or "refused"
            continue
        except (OSError, ValueError) as error:
            said = str(error) or type(error).__name__
            break
        status, body = said.partition("\r\n")[0], said.partition("\r\n\r\n")[2].strip()
        ok = status.split()[1:2] == ["200"]
        return Outcome(begun, time.monotonic(), ok, via, body if ok else f"{status}: {body}")
    return Outcome(begun, time.monotonic(), False, via, said)


async def _ask(host: str, port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    if not answer:
        raise ValueError("the connection was closed without an answer")
    return answer.decode("utf-8", "replace")


async def steady(ingresses: typing.Sequence[str], path: str, rate: float, seconds: float) -> list[Outcome]:
    """`rate` requests a second for `seconds`; returns when the last one has ended."""
    start, tasks = time.monotonic(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(request(ingresses, path)))
    return list(await asyncio.gather(*tasks))


class Load:
    """A steady load in a process of its own, so that nothing that is done meanwhile delays it."""

    def __init__(self, ingresses: typing.Sequence[str], path: str, rate: float, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._results: multiprocessing.Queue = context.Queue()
        self._process = context.Process(target=_work, args=(self._results, list(ingresses), path, rate, seconds), daemon=True)
        self._process.start()
        self._results.get()

    def outcomes(self) -> list[Outcome]:
        """Wait for the end of the load, and tell what became of each request."""
        found = [Outcome(*entry) for entry in self._results.get()]
        self._process.join()
        return found


def _work(results: multiprocessing.Queue, ingresses: list[str], path: str, rate: float, seconds: float) -> None:
    results.put("ready")
    results.put([tuple(outcome) for outcome in asyncio.run(steady(ingresses, path, rate, seconds))])
