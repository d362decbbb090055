"""One file under the promises of the readers: what it came to, and whether anything came to pass that must not.

A promise is broken by an exception that is no CgruError, by something executed, by a network whose outputs are not
those of the reference backend, by a message of more than 2,000 characters, and by a cost out of bounds.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import numpy as np
from bounded import MAX_MESSAGE, memory_bound, time_bound

import cgru
from cgru.errors import CgruError, ShapeError

#: Nothing of this kind happens while a file in memory is read and its network is run.
_FORBIDDEN = re.compile(
    r"exec|compile|import|open|ctypes\..*|marshal\..*|os\..*|pickle\..*|shutil\..*|socket\..*|subprocess\..*|pty\..*"
)
_watched: list[str] | None = None


def watch_audit_events() -> None:
    """From now on :func:`outcome` sees what is executed, opened or imported. It cannot be undone in this process."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _watched is not None and _FORBIDDEN.fullmatch(event) and not _is_own(event, arguments):
            _watched.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)


def _is_own(event: str, arguments: tuple[Any, ...]) -> bool:
    """What the measuring itself does."""
    return event == "open" and str(arguments[0]).startswith("/proc/self/")


def outcome(content: bytes) -> tuple[str, list[str]]:
    """What ``content`` came to, as "loaded", "read" or the error's signature, and the promises that were broken."""
    global _watched
    _watched = []
    broken: list[str] = []
    came_to = "loaded"
    try:
        net = cgru.load(content)
    except CgruError as error:
        came_to = signature(error)
        if len(str(error)) > MAX_MESSAGE:
            broken.append(f"a message of {len(str(error))} characters")
        came_to = _read(content, came_to, broken)
    except Exception as error:
        broken.append(_unexpected("load", error))
    else:
        broken += _differences(net, content)
    broken += [f"audit event {event}" for event in _watched]
    _watched = None
    return came_to, broken


def measured(content: bytes, memory: Any) -> tuple[str, list[str]]:
    """:func:`outcome` with its cost: ``memory`` has ``reset`` and ``peak``, the bytes grown since."""
    memory.reset()
    start = time.process_time()
    came_to, broken = outcome(content)
    seconds = time.process_time() - start
    size = len(content)
    if seconds > time_bound(size):
        broken.append(f"{seconds:.2f} s of processor time for {size} bytes")
    if memory.peak() > memory_bound(size):
        broken.append(f"grew by {memory.peak() >> 20} MB for {size} bytes")
    return came_to, broken


def signature(error: BaseException) -> str:
    """The kind of an error: its class and its words, without the names and numbers of the file."""
    text = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|b'.*?'", "…", str(error).partition(": ")[2])
    return f"{type(error).__name__}: {re.sub(r'[^a-zA-Z …]+', ' ', text)[:60].strip()}"


def _read(content: bytes, came_to: str, broken: list[str]) -> str:
    """Arrays of a file that is no network."""
    try:
        arrays = cgru.read(content)
    except CgruError:
        return came_to
    except Exception as error:
        broken.append(_unexpected("read", error))
        return came_to
    for name, values in arrays.items():
        name.encode()
        if values.dtype.kind not in "fiub" or not values.dtype.isnative or values.flags.writeable:
            broken.append(f"array {name[:80]!r} is {values.dtype}, writeable {values.flags.writeable}")
    return came_to


def _unexpected(call: str, error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rpartition('cgru/')[2]}:{trace.tb_lineno}" if trace else ""
    return f"{call}: {type(error).__name__}: {str(error)[:200]} at {place}"


def _differences(net: cgru.Model, content: bytes) -> list[str]:
    """The network beside the same one on the reference backend, two sequences of twelve steps."""
    if net.parameters > 3_000_000:
        return []
    try:
        x = _inputs(net)
        found = net(x)
        expected = cgru.load(content, backend="reference")(x)
    except CgruError:
        return []
    except Exception as error:
        return [_unexpected("run", error)]
    parts = zip(_parts(found), _parts(expected), strict=True)
    return [f"outputs differ by {difference:.3g}" for a, b in parts if (difference := _difference(net, a, b)) > 0]


def _inputs(net: cgru.Model) -> Any:
    """An array, or one by name for each of several inputs that a call must have."""
    rng = np.random.default_rng(5)
    given = {}
    for name, value in net.graph.inputs.items():
        if name in net.graph.optional:
            continue
        shape = (2, *((12,) if value.clock is not None else ()), *value.features)
        if value.size * 24 > 2_400_000:
            raise ShapeError(f"{name} of {value.features} is more than is tried")
        # Ids that every vocabulary here has; a mask that ends within the sequence.
        values = {"int64": rng.integers(0, 2, shape), "bool": np.arange(12) < np.array([[12], [7]])}
        given[name] = values.get(value.dtype, rng.standard_normal(shape, np.float32))
    return given if len(given) > 1 else next(iter(given.values()))


def _parts(y: Any) -> list[np.ndarray]:
    return list(y.values() if isinstance(y, dict) else y if isinstance(y, tuple) else [y])


def _difference(net: cgru.Model, found: np.ndarray, expected: np.ndarray) -> float:
    """How far outputs are apart beyond what their precision explains; 0 where rounding decides."""
    weights = (array for layer in net.layers for array in layer.arrays().values() if array.size)
    largest = max((float(np.abs(array).max()) for array in weights), default=0.0)
    if found.shape != expected.shape:
        return np.inf
    if not largest <= 30 or not np.isfinite(expected).all():
        return 0.0
    if not np.isfinite(found).all():
        return np.inf
    allowed = 2e-3 if net.precision == "float32" else 0.25
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    difference = float(np.abs(found - expected).max(initial=0)) / scale
    return difference if difference > allowed else 0.0
