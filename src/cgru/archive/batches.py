"""Sequences of any number and length through a network: batches by length, every core, bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from ..arrays import positive
from ..engine import one_array
from ..engine.model import Model
from ..errors import ArgumentTypeError, CgruError
from ..threads import resolve

Key = TypeVar("Key", bound=Hashable)

#: Rows of a batch at most, and its steps (rows × the longest): enough to keep any backend busy.
ROWS, STEPS = 64, 1 << 15
#: Bytes of input that are read before they are sorted by length and run.
WINDOW = 64 << 20


def map(net: Model, dataset: Iterable[Any], *, jobs: int | str = "auto", window: int = WINDOW) -> Iterator[Any]:
    """The outputs of ``net`` for every sequence of ``dataset``, in its order, each to the bit what ``net(x)`` gives.

    ``dataset`` gives arrays (T, I), or ids (T,) where the network begins with an embedding; it may be a generator, or a
    pyarrow column of lists (:mod:`cgru.archive.columns`). Yields (T, O) for each, (O,) where the network gives its last
    output alone, or a tuple of arrays.

    ``jobs`` batches run at once, each on a thread; "auto" means the cores that this process may use. Sequences are read
    ``window`` bytes at a time, sorted by length and run in batches of similar length; about three windows of input and
    their outputs are in memory at once. With backends that promise a tolerance instead of bits, so does this.

    Raises :class:`CgruError` naming the sequence that does not fit, when it is reached.
    """
    if not isinstance(net, Model):
        raise ArgumentTypeError(f"net: expected a cgru.Model, found {type(net).__name__}")
    one_array.check(net, "cgru.map")
    workers, bytes_at_once = resolve(jobs), positive(window, "window")
    if type(dataset).__module__.partition(".")[0] == "pyarrow":
        from .columns import sequences

        dataset = sequences(dataset, net)
    try:
        given = iter(dataset)
    except Exception as error:
        raise ArgumentTypeError(f"dataset: expected sequences to go through ({type(error).__name__})") from None
    return (y for _, y in run(net, enumerate(given), workers, bytes_at_once))


def run(
    net: Model, items: Iterable[tuple[Key, Any]], workers: int, window: int = WINDOW
) -> Iterator[tuple[Key, Any]]:
    """``(key, x)`` → ``(key, net(x))``, in order; batched across ``items``."""
    with ThreadPoolExecutor(workers, "cgru-batch") as pool:
        under_way: deque[_Window[Key]] = deque()
        try:
            for part in _windows(net, items, window):
                under_way.append(_Window(net, part, pool))
                if len(under_way) > 2:  # one is read while one runs and one is handed on
                    yield from under_way.popleft().outputs()
            while under_way:
                yield from under_way.popleft().outputs()
        finally:
            for left in under_way:
                left.cancel()


def admit(net: Model, x: Any, where: str) -> np.ndarray:
    """One sequence checked and cast: (T, I), or ids (T,)."""
    try:
        x3, single = one_array.admit(net, x)
    except CgruError as error:
        raise type(error)(f"{where}: {error}") from error
    if not single:
        raise CgruError(f"{where}: expected one sequence, {'(T,)' if net.takes_ids else '(T, I)'}, found {x3.shape}")
    return x3[0]


def _windows(
    net: Model, items: Iterable[tuple[Key, Any]], size: int
) -> Iterator[list[tuple[Key, np.ndarray]]]:
    part: list[tuple[Key, np.ndarray]] = []
    held = 0
    for key, x in items:
        part.append((key, admit(net, x, f"sequence {key!r}" if isinstance(key, str) else f"dataset: sequence {key}")))
        held += part[-1][1].nbytes
        if held >= size:
            yield part
            part, held = [], 0
    if part:
        yield part


class _Window(Generic[Key]):
    """Sequences whose batches are being run."""

    def __init__(self, net: Model, part: list[tuple[Key, np.ndarray]], pool: ThreadPoolExecutor) -> None:
        self._keys = [key for key, _ in part]
        self._jobs: list[tuple[list[int], Future[list[Any]]]] = []
        for rows in _batches([len(x) for _, x in part]):
            self._jobs.append((rows, pool.submit(_together, net, [part[i][1] for i in rows])))

    def outputs(self) -> Iterator[tuple[Key, Any]]:
        found: list[Any] = [None] * len(self._keys)
        for rows, job in self._jobs:
            for i, y in zip(rows, job.result(), strict=True):
                found[i] = y
        self._jobs.clear()
        for at, key in enumerate(self._keys):
            y, found[at] = found[at], None  # what has been handed on is the caller's alone
            yield key, y

    def cancel(self) -> None:
        for _, job in self._jobs:
            job.cancel()


def _together(net: Model, xs: list[np.ndarray]) -> list[Any]:
    """Sequences of similar length as one call, and each one's own outputs."""
    lengths = np.array([len(x) for x in xs])
    longest = int(lengths.max())
    if len(xs) == 1 or not one_array.keeps_time(net):
        return [net(x, threads=1) for x in xs]
    padded = np.zeros((len(xs), longest, *xs[0].shape[1:]), xs[0].dtype)
    for row, x in zip(padded, xs, strict=True):
        row[: len(x)] = x
    y = net(padded, lengths, threads=1)
    parts = y if isinstance(y, tuple) else (y,)
    last = net.gives_last
    rows = [tuple((part[i] if last else part[i, : lengths[i]]).copy() for part in parts) for i in range(len(xs))]
    return rows if isinstance(y, tuple) else [row[0] for row in rows]


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """The positions of sequences that run together, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at = 0
    while at < len(order):
        rows = max(1, min(ROWS, STEPS // max(1, lengths[order[at]])))
        yield order[at : at + rows]
        at += rows
