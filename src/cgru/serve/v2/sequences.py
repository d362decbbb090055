"""Triton's sequence extension: requests that share a ``sequence_id`` are steps of one stream, in their order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from ...errors import CgruError
from ..service import Service
from ..ticks import Channel


class _Sequence:
    def __init__(self, channel: Channel) -> None:
        self.channel, self.turn, self.heard = channel, asyncio.Lock(), time.monotonic()


class Sequences:
    """The streams of one server that go by a ``sequence_id``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open: dict[int | str, _Sequence] = {}
        service.swept.append(self._expire)

    async def advance(self, sequence: Any, x: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
        """Outputs of the steps in x (T, I) or (1, T, I), ids (T,) or (1, T), shaped as x is."""
        if isinstance(sequence, bool) or not isinstance(sequence, int | str):
            raise CgruError(f"sequence_id: expected a number or a text, found {type(sequence).__name__}")
        start, end = (parameters.get(f"sequence_{which}", False) is True for which in ("start", "end"))
        service = self._service
        axes = 1 if service.ids else 2
        if x.ndim not in (axes, axes + 1) or (x.ndim > axes and x.shape[0] != 1):
            raise CgruError(f"input 'x': a sequence's request holds steps of one stream, (T, I), found shape {x.shape}")
        steps: np.ndarray = x.reshape(x.shape[x.ndim - axes :])
        if not service.ids and steps.shape[-1] != service.width:
            raise CgruError(f"input 'x': expected {service.width} features at each step, found shape {x.shape}")
        if not len(steps):
            raise CgruError("input 'x': expected at least one step")
        # The bytes pass the checks of a WebSocket's messages: ids within the vocabulary.
        kind = "<i4" if service.ids else "<f4"
        with np.errstate(over="ignore"):
            frames = service.frames(np.ascontiguousarray(steps, kind).tobytes(), service.forms[0])
        found = self._begin(sequence) if start else self._open.get(sequence)
        if found is None:
            raise CgruError(f"sequence_id: sequence {str(sequence)[:40]} is not open; begin it with sequence_start")
        async with found.turn:
            driver = service.driver
            got: list[bytes] = []
            found.heard = float("inf")
            try:
                sending = asyncio.create_task(driver.send(found.channel, frames))
                while len(got) < len(steps):
                    got += await driver.receive(found.channel)
                await sending
            except Exception:
                self._end(sequence)
                raise
            found.heard = time.monotonic()
        if end:
            self._end(sequence)
        y = np.frombuffer(b"".join(got), "<f4").reshape(len(steps), -1)
        return y[None] if x.ndim > axes else y

    def _begin(self, sequence: int | str) -> _Sequence:
        if sequence in self._open:
            self._end(sequence)
        self._service.reserve()
        try:
            found = self._open[sequence] = _Sequence(self._service.open())
        except BaseException:
            self._service.release()
            raise
        return found

    def _end(self, sequence: int | str) -> None:
        found = self._open.pop(sequence, None)
        if found is not None:
            self._service.driver.close(found.channel)
            self._service.release()

    def _expire(self, now: float) -> None:
        for sequence, found in list(self._open.items()):
            if now - found.heard > self._service.settings.idle:
                self._end(sequence)
