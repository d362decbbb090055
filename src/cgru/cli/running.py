"""A network over the sequences that a file gave, and what it gave as numbers to print."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.model import Model
from ..errors import CgruError, UnsupportedError
from . import files

#: Rows that one call runs: enough to keep any backend busy, few enough for the bar to move.
ROWS = 256


def rows(net: Model, given: files.Input | files.Named, threads: int) -> Any:
    """``net(x)``, many rows in parts: a row's result does not depend on the rows beside it."""
    x = given.x
    if isinstance(x, dict):
        return net(x, given.lengths, given.mask, threads=threads)
    count = len(x) if x.ndim == (2 if net.takes_ids else 3) else 1
    if count <= ROWS:
        return net(x, given.lengths, given.mask, threads=threads)
    for name, array in (("lengths", given.lengths), ("mask", given.mask)):
        if array is not None and array.shape[:1] != (count,):
            raise CgruError(f"{name}: expected one entry for each of the {count} rows of x, found shape {array.shape}")
    parts = []
    for at in progress(range(0, count, ROWS)):
        part = slice(at, at + ROWS)
        lengths = None if given.lengths is None else given.lengths[part]
        mask = None if given.mask is None else given.mask[part]
        parts.append(net(x[part], lengths, mask, threads=threads))
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    return np.concatenate(parts)


def stream(net: Model, given: files.Input | files.Named) -> Any:
    """The same numbers by way of a stream, a step at a time, as input that arrives would be run."""
    if isinstance(given, files.Named):
        raise UnsupportedError("--stream: a network of several inputs runs whole here; leave --stream away")
    if given.lengths is not None or given.mask is not None:
        raise UnsupportedError("--stream: a stream has neither lengths nor a mask; leave --stream away")
    single = given.x.ndim == (1 if net.takes_ids else 2)
    x = given.x[None] if single else given.x
    if x.ndim != (2 if net.takes_ids else 3):
        return net(given.x)  # which says what is wrong
    walk = net.stream(batch=max(1, len(x)))
    outputs = [walk.step(x[:, t]) for t in progress(range(x.shape[1]))] if len(x) else []
    if not outputs:
        return net(given.x)
    if isinstance(outputs[0], dict):
        columns = {name: [made[name] for made in outputs] for name in outputs[0]}
        return {name: _over_time(made, net.graph.values[name].clock is None, single) for name, made in columns.items()}
    return _over_time(outputs, net.gives_last, single)


def _over_time(steps: Sequence[np.ndarray], last: bool, single: bool) -> np.ndarray:
    y = steps[-1] if last else np.stack(steps, axis=1)
    row: np.ndarray = y[0] if single else y
    return row


def progress(items: Sequence[Any]) -> Any:
    """Yield ``items``; past two seconds draw a bar on standard error, if that is a terminal."""
    start, drawn = time.monotonic(), False
    for done, item in enumerate(items):
        if time.monotonic() - start > 2 and sys.stderr.isatty():
            drawn = True
            bar = "#" * (40 * done // len(items))
            print(f"\r[{bar:<40}] {100 * done // len(items):3d} %", end="", file=sys.stderr, flush=True)
        yield item
    if drawn:
        print("\r" + " " * 50 + "\r", end="", file=sys.stderr, flush=True)


def each(given: Any, made: Callable[[Any], Any]) -> Any:
    """``made`` of an array, or of each of several: a list of a tuple, a mapping of a mapping."""
    if isinstance(given, dict):
        return {name: made(part) for name, part in given.items()}
    return [made(part) for part in given] if isinstance(given, tuple) else made(given)
