"""One client's stream over a WebSocket, from its first byte to its last.

Binary messages carry steps in, any number each, and outputs (float32) out, in order. Text messages are JSON objects:
the server's first tells the stream's token, sizes and steps done; the client's ``op`` is "reset", "save" or "close".
What the client does wrong ends its own stream with a message that says what, and keeps its state. docs/serving.md
describes the protocol for those who write clients.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from ..errors import CgruError
from .guard import bearer
from .refusals import Busy
from .service import Service
from .sessions import Saved
from .ticks import Channel

Message = MutableMapping[str, Any]
#: Codes with which a WebSocket closes (RFC 6455, section 7.4, and IANA's registry), by reason.
CODES = {
    "closed": 1000, "mistake": 1007, "kind": 1003, "idle": 1001, "stalled": 1008, "failed": 1011, "shutdown": 1012,
    "taken over": 4001,
}  # fmt: skip
#: The name in ``scope["extensions"]`` under which a server gives a way for steps and outputs past ASGI (``wires.py``).
STRAIGHT = "cgru.straight"
_LONGEST_TEXT = 4096
#: About what a text message costs the loop, in seconds.
_WORDS = 0.0002


class Mistake(CgruError):
    """Something in what the client sent."""


class Conversation:
    """An ASGI application for one WebSocket."""

    def __init__(
        self,
        service: Service,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.service, self.scope, self._receive, self._send = service, scope, receive, send
        self.token = secrets.token_urlsafe(18)
        self.channel: Channel | None = None
        self.form = service.forms[0]
        #: When the client was last heard, and since when it has not taken what is sent to it (0: it has).
        self.heard, self.sending = time.monotonic(), 0.0
        self.before = 0  # steps done before this connection
        self._sent: deque[bytes] = deque(maxlen=max(service.settings.replay, 1))
        self._order = asyncio.Lock()
        #: The way past ASGI for steps and outputs, where the server has one; whether no message is being read, and
        #: whether outputs are on their way by ASGI.
        self._wire = scope.get("extensions", {}).pop(STRAIGHT, None)
        self._listening = self._holding = False
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task

    @property
    def steps(self) -> int:
        return self.before + (self.channel.steps if self.channel is not None else 0)

    def end(self, reason: str) -> None:
        """End the stream, from outside."""
        if not self._ended.done():
            self._ended.set_result(reason)

    async def run(self) -> None:
        service = self.service
        message = await self._receive()
        if message["type"] != "websocket.connect":
            return
        query = {name: found[-1] for name, found in parse_qs(self.scope["query_string"].decode("latin-1")).items()}
        try:
            service.reserve()
        except CgruError as error:
            await self._deny(503 if isinstance(error, Busy) else 501, error)
            return
        try:
            try:
                self.form = query.get("format", self.form)
                if self.form not in service.forms:
                    raise Mistake(f"format: expected {' or '.join(service.forms)}, found {self.form[:40]!r}")
                have = int(query.get("have", "-1")) if query.get("have", "0").isdecimal() else -1
                saved = await self._saved(query["resume"]) if "resume" in query else None
                if "restore" not in query:
                    self.channel = self._opened(None if saved is None else saved.state)
            except CgruError as error:
                await self._deny(400, error)
                return
            except KeyError:
                await self._deny(404, CgruError("resume: no stream is kept under this token; open a new one"))
                return
            service.conversations[self.token] = self
            await self._accepted(saved, have)
        finally:
            if self._wire is not None:
                self._wire.taker = None
                self._wire = None  # each would keep the other
            if self.channel is not None:
                service.driver.close(self.channel)
            if service.conversations.get(self.token) is self:
                del service.conversations[self.token]
            service.release()

    # ---- beginning ----------------------------------------------------------------------------------------

    async def _saved(self, token: str) -> Saved:
        """What is kept under a token; a connection that still holds the stream is ended first."""
        live = self.service.conversations.get(token)
        if live is not None:
            live.end("taken over")
            await asyncio.wait([live.task], timeout=self.service.settings.stall)
        saved = self.service.sessions.take(token)
        if saved is None:
            raise KeyError(token)
        self.token, self.before = token, saved.steps
        self._sent.extend(saved.replay)
        self.service.metrics.resumed.inc()
        return saved

    async def _accepted(self, saved: Saved | None, have: int) -> None:
        offered = [name for name in self.scope.get("subprotocols", ()) if bearer([name]) is None]
        spoken = "cgru" if "cgru" in offered else None
        await self._send({"type": "websocket.accept", "subprotocol": spoken})
        reason = "closed"
        tasks: list[asyncio.Task[None]] = []
        try:
            if self.channel is None:
                await self._restored()
            net = self.service.net
            lacking = self.steps - have if saved is not None and have >= 0 else 0
            missed = list(self._sent)[-lacking:] if lacking > 0 else []
            await self._say(
                op="open", token=self.token, input_size=self.service.width, output_size=net.output_size,
                format=self.form, steps=self.steps, resumed=saved is not None, replayed=len(missed),
            )  # fmt: skip
            if missed:
                await self._out({"type": "websocket.send", "bytes": b"".join(missed)})
            tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
            waited: list[asyncio.Future[Any]] = [*tasks, self._ended]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            reason = await self._outcome(tasks)
        except Mistake as error:
            reason = "mistake"
            await self._goodbye(reason, error=str(error))
        except (TimeoutError, OSError):
            reason = "gone"
        finally:
            await _stopped(tasks)
            await self._keep(reason)
            self.service.metrics.ended.labels(reason).inc()

    async def _restored(self) -> None:
        """Open the stream in the state that the client's first message brings."""
        message = await asyncio.wait_for(self._receive(), self.service.settings.stall)
        state = message.get("bytes")
        if message["type"] != "websocket.receive" or not state:
            raise Mistake("restore: the first message must be the state, as this server or another gave it")
        try:
            self.channel = self._opened(state)
        except CgruError as error:
            raise Mistake(f"restore: {error}") from error

    def _opened(self, state: bytes | None) -> Channel:
        return self.service.open(state, None if self._wire is None else self._pass)

    # ---- between ------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Take messages until the client says that it is done; raises :class:`Mistake`."""
        rate = self.service.settings.stream_rate
        if self._wire is not None and not rate:
            self._wire.taker = self._take
        try:
            await self._messages(rate)
        finally:
            self._listening = False

    async def _messages(self, rate: float) -> None:
        service, driver, channel, receive = self.service, self.service.driver, self.channel, self._receive
        assert channel is not None
        begun, taken = time.monotonic(), 0
        size = service.frame_bytes(self.form)
        while True:
            self._listening = True
            message = await receive()
            self._listening = False
            if message["type"] == "websocket.disconnect":
                if message.get("code") == 1000:
                    return
                raise ConnectionResetError
            self.heard = time.monotonic()
            data = message.get("bytes")
            if data is None:
                if await self._asked(message.get("text") or ""):
                    return
                continue
            if rate:
                # As much as a second's steps may come at once; beyond, it is read more slowly.
                taken += len(data) // size
                begun = max(begun, self.heard - taken / rate - 1)
                if (early := taken / rate - (self.heard - begun) - 1) > 0:
                    await asyncio.sleep(early)
            try:
                frames = service.frames(data, self.form)
            except CgruError as error:
                raise Mistake(str(error)) from error
            await driver.send(channel, frames)
            self.heard = time.monotonic()

    def _take(self, data: bytes) -> bool:
        """A message of steps that comes straight; False leaves it to :meth:`_read`, as one that is no whole steps."""
        if not self._listening or self.channel is None:
            return False
        try:
            taken = self.service.driver.offer(self.channel, self.service.frames(data, self.form))
        except CgruError:
            return False
        if taken:
            self.heard = time.monotonic()
        return taken

    async def _write(self) -> None:
        """Send outputs as they come."""
        driver, channel = self.service.driver, self.channel
        assert channel is not None
        while True:
            data = self._noted(await driver.receive(channel))
            self._holding = True
            await self._out({"type": "websocket.send", "bytes": data})
            self._holding = False

    def _pass(self) -> bool:
        """Give outputs straight to the client; False leaves them to :meth:`_write`."""
        wire, channel = self._wire, self.channel
        if wire is None or channel is None or self._holding or self._order.locked() or not wire.free:
            return False
        wire.give(self._noted(self.service.driver.collect(channel)))
        return True

    def _noted(self, outputs: list[bytes]) -> bytes:
        """Outputs as one message, and among what can be sent once more."""
        self._sent.extend(outputs)
        return outputs[0] if len(outputs) == 1 else b"".join(outputs)

    async def _asked(self, text: str) -> bool:
        """Do what a text message asks, after the steps before it; whether the conversation is over."""
        channel, driver = self.channel, self.service.driver
        assert channel is not None
        await self.service.door.turn(_WORDS)
        try:
            if len(text) > _LONGEST_TEXT:
                raise ValueError
            asked = json.loads(text)
            op = asked["op"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Mistake('expected a JSON object such as {"op": "save"}, found ' + repr(text[:60])) from None
        if op not in ("reset", "save", "close"):
            raise Mistake(f"op: expected reset, save or close, found {str(op)[:40]!r}")
        await driver.collected(channel)
        if op == "close":
            return True
        if op == "reset":
            self.service.pool.reset(channel.sid)
            await self._say(op="reset", steps=self.steps)
            return False
        state = self.service.pool.dump(channel.sid)
        self.service.sessions.keep(self.token, Saved(state, self.steps, tuple(self._sent)))
        told: dict[str, Any] = {"op": "saved", "token": self.token, "steps": self.steps}
        if asked.get("state"):
            told["state"] = base64.b64encode(state).decode()
        await self._say(**told)
        return False

    # ---- ending -------------------------------------------------------------------------------------------

    async def _outcome(self, tasks: list[asyncio.Task[None]]) -> str:
        """Why it ended, after the client has been told as far as it can be."""
        assert self.channel is not None
        reader, writer = tasks
        if reader.done() or writer.done():
            failed = next((task.exception() for task in tasks if task.done() and task.exception()), None)
            if failed is None:
                reason = "closed"
            elif isinstance(failed, Mistake):
                reason = "mistake"
                await self._goodbye(reason, error=str(failed))
                return reason
            elif isinstance(failed, OSError):
                return "gone"
            else:
                reason = "failed"
                await self._goodbye(reason, error=f"the step failed: {type(failed).__name__}")
                return reason
        else:
            reason = self._ended.result()
        if reason == "shutdown":
            await _stopped([reader])
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(self.service.driver.collected(self.channel), self.service.settings.drain)
        if reason != "stalled":
            await self._goodbye(reason)
        return reason

    async def _goodbye(self, reason: str, **told: Any) -> None:
        """The last words: why, how many steps were done, and at shutdown the state itself."""
        if self.channel is not None:
            told["steps"] = self.steps
            if reason == "shutdown" and self.channel.settled:
                told["state"] = base64.b64encode(self.service.pool.dump(self.channel.sid)).decode()
        if reason not in ("closed", "taken over"):
            told["token"] = self.token
        with contextlib.suppress(TimeoutError, OSError, RuntimeError):
            async with asyncio.timeout(self.service.settings.stall):
                await self._say(op="goodbye", reason=reason, **told)
                await self._out({"type": "websocket.close", "code": CODES[reason], "reason": reason})

    async def _keep(self, reason: str) -> None:
        """Keep the state for the client to come back, unless it said that it will not.

        Steps that were not begun are forgotten: who comes back is told how many were done, and goes on from there.
        """
        channel, service = self.channel, self.service
        if reason in ("closed", "failed") or channel is None:
            return
        await service.driver.halted(channel)
        if channel.failed is None:
            most = service.settings.replay
            replay = [*self._sent, *channel.outputs][-most:] if most else []
            service.sessions.keep(self.token, Saved(service.pool.dump(channel.sid), self.steps, tuple(replay)))

    # ---- words --------------------------------------------------------------------------------------------

    async def _say(self, **told: Any) -> None:
        await self._out({"type": "websocket.send", "text": json.dumps(told)})

    async def _out(self, message: Message) -> None:
        async with self._order:
            self.sending = time.monotonic()
            await self._send(message)
            self.sending = 0.0

    async def _deny(self, status: int, error: CgruError) -> None:
        """Answer the handshake with an HTTP status and its reason."""
        self.service.metrics.refused.labels({503: "capacity", 404: "resume"}.get(status, "mistake")).inc()
        headers = [(b"content-type", b"application/json")] + ([(b"retry-after", b"1")] if status == 503 else [])
        body = json.dumps({"error": str(error)}).encode()
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})


async def _stopped(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
