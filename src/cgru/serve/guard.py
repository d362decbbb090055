"""What stands before every request: its turn, the bearer token, the rate of each address, a body's size and time."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from .load import Door
from .metrics import Metrics
from .settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Open to whoever reaches the port: probes have no token, and the page asks its reader for one.
_OPEN = {"/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
_ROUTES = ("/v1/run", "/v1/stream", "/v1/model", "/metrics", "/healthz", "/readyz", "/v2")
#: Browsers cannot set headers on a WebSocket, but they can offer subprotocols.
_SUBPROTOCOL = "bearer."
_ADDRESSES = 100_000
#: About what the rest of a request costs the loop, in seconds.
_REQUEST = 0.0002
#: Seconds for which a body that is too large is read and thrown away.
_LINGER = 2.0


def bearer(offered: Iterable[str]) -> str | None:
    """The token among a WebSocket's subprotocols, ``bearer.TOKEN``."""
    return next((name[len(_SUBPROTOCOL) :] for name in offered if name.startswith(_SUBPROTOCOL)), None)


class Rate:
    """So many requests a second of each address, a second's worth at once (token buckets)."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until this address may ask again; 0 where it may now, and has."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, at = self._spent.pop(address, (0.0, now))
        level = max(0.0, level - (now - at) * self._rate)
        allowed = level + 1 <= max(1.0, self._rate)
        self._spent[address] = (level + allowed, now)
        while len(self._spent) > _ADDRESSES:
            self._spent.popitem(last=False)
        return 0.0 if allowed else (level + 1 - max(1.0, self._rate)) / self._rate


class _TooLarge(Exception):
    pass


class Guard:
    """ASGI middleware."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics, door: Door) -> None:
        self._app, self._settings, self._metrics, self._door = app, settings, metrics, door
        self._rate = Rate(settings.request_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        await self._door.turn(_REQUEST)
        if scope["path"] not in _OPEN and not self._known(scope):
            self._metrics.refused.labels("token").inc()
            said = "expected the header Authorization: Bearer TOKEN"
            await _answer(scope, receive, send, 401, said, [(b"www-authenticate", b"Bearer")])
            return
        if not self._same_origin(scope):
            self._metrics.refused.labels("origin").inc()
            said = "a page of another origin may not call this server; its operator can allow it (origins)"
            await _answer(scope, receive, send, 403, said, [])
            return
        address = (scope.get("client") or ("", 0))[0]
        if wait := self._rate.wait(address):
            self._metrics.refused.labels("rate").inc()
            said = f"more than {self._settings.request_rate:g} requests a second from this address"
            await _answer(scope, receive, send, 429, said, [(b"retry-after", str(int(wait) + 1).encode())])
            return
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _same_origin(self, scope: Scope) -> bool:
        """Whether it is not a browser on some other site's page, which could reach a server on its user's machine."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or origin in self._settings.origins:
            return True
        return origin.partition("://")[2] == headers.get(b"host", b"").decode("latin-1")

    def _known(self, scope: Scope) -> bool:
        wanted = self._settings.token
        if wanted is None:
            return True
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = shown.partition(b" ")
        if kind.lower() != b"bearer":
            token = (bearer(scope.get("subprotocols", ())) or "").encode()
        return hmac.compare_digest(token.strip(), wanted.encode())

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        most, begun, answered = self._settings.body, time.perf_counter(), 0
        told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        route = next((route for route in _ROUTES if scope["path"].startswith(route)), "other")
        route = "/" if scope["path"] == "/" else route
        seen = 0

        async def measured() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive() if answered else await asyncio.wait_for(receive(), self._settings.idle)
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > most:
                    raise _TooLarge
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
            await send(message)

        try:
            if told.isdigit() and int(told) > most:
                raise _TooLarge
            await self._app(scope, measured, noted)
        except _TooLarge:
            self._metrics.refused.labels("size").inc()
            if not answered:
                await self._drained(receive)
                said = f"a request holds at most {most} bytes"
                await _answer(scope, receive, noted, 413, said, [(b"connection", b"close")])
        except ClientDisconnect:
            answered = 499  # as others log a client that left before its answer
        except TimeoutError:
            if not answered:
                said = f"the request did not arrive within {self._settings.idle:g} seconds"
                await _answer(scope, receive, noted, 408, said, [(b"connection", b"close")])
        finally:
            self._metrics.requests.labels(route, str(answered)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - begun)

    async def _drained(self, receive: Receive) -> None:
        """Read on for a while: a client that is still sending when the connection closes never sees the answer."""
        seen = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while seen < 4 * self._settings.body:
                    message = await receive()
                    seen += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return


async def _answer(
    scope: Scope, receive: Receive, send: Send, status: int, said: str, headers: list[tuple[bytes, bytes]]
) -> None:
    """An error as JSON; a WebSocket's handshake is answered so too."""
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()
        kind = "websocket.http.response"
    headers = [(b"content-type", b"application/json"), *headers]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": json.dumps({"error": said}).encode()})
