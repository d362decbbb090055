"""Text to numbers and back, in a process of its own where the text is long.

Python's parsers and printers hold the interpreter's lock from the first byte to the last: 1.3 MB of JSON, four seconds
of frames, would stop every stream of the server for 30 ms.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from .priority import later, less_urgent
from .refusals import Busy

#: Bytes of text that are translated where they are: about half a millisecond.
SHORT = 16_384
#: Bytes that a number takes in JSON, about.
NUMBER = 20


class Translator:
    """``await translator(size, function, *arguments)``: ``function(*arguments)``, elsewhere if ``size`` is large.

    ``function``, a module's own, the arguments, and what it returns or raises travel between processes. The process
    starts with the first long text; its module should import little. Raises :class:`Busy` where ``most`` long texts
    wait already.
    """

    def __init__(self, most: int) -> None:
        self._most, self._waiting = most, 0
        self._pool: ProcessPoolExecutor | None = None
        # A process has the priority of the thread that starts it: even its start, 0.2 s of imports, comes after all.
        self._starter = ThreadPoolExecutor(1, "cgru-translator", initializer=less_urgent, initargs=(later(),))

    async def __call__(self, size: int, function: Callable[..., Any], *arguments: Any) -> Any:
        if size <= SHORT:
            return function(*arguments)
        if self._waiting >= self._most:
            raise Busy(f"{self._waiting} requests are waiting")
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (later(),))
        pool, loop = self._pool, asyncio.get_running_loop()
        self._waiting += 1
        try:
            submit = functools.partial(pool.submit, function, *arguments)
            asked: Future[Any] = await loop.run_in_executor(self._starter, submit)
            return await asyncio.wrap_future(asked)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
            raise Busy("the process that reads long texts has ended, and the next one takes over") from None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._starter.shutdown(wait=True, cancel_futures=True)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _begin(level: int) -> None:
    """In the process: streams go first, the server alone hears Ctrl-C, and the server's end is this process's end."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, 0, level)  # where processes have a priority and threads have none
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(0)
