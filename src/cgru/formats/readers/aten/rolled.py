"""A loop over frames → the operations of one of its steps, between what a step begins with and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import CgruError, UnsupportedError
from .loops import Loop
from .lowering import Lowering
from .pointwise import broadcast
from .program import Call, Ref, refs
from .values import Axis, B, Known, Misread, T, Tensor


def reads(loop: Loop) -> set[str]:
    """The names that must be there before the loop."""
    inner = {call.name for call in loop.body} | set(loop.frames) | set(loop.carried)
    found = {sweep.source for sweep in loop.frames.values()}
    found |= {name for call in loop.body for name in refs([*call.args, *call.kwargs.values()])} - inner
    found |= set(loop.starts.values())
    return found | {begin.name for _, begin in loop.carried.values() if isinstance(begin, Ref)}


def walk_with(lo: Lowering, loops: Sequence[Loop]) -> None:
    """Follow the program with its loops rolled up, each call as soon as what it reads is there."""
    owner = {name: loop for loop in loops for name in loop.results}
    by_name = {call.name: call for call in lo.program.calls}
    wanted: set[str] = set()
    used: list[Loop] = []
    todo = [name for _, value in lo.program.outputs for name in refs(value)]
    while todo:
        name = todo.pop()
        if name in wanted:
            continue
        wanted.add(name)
        if name in owner:
            if owner[name] not in used:
                used.append(owner[name])
                todo += reads(owner[name])
                starts = [by_name[start] for start in owner[name].starts.values()]
                todo += refs([value for call in starts for value in (*call.args, *call.kwargs.values())])
        elif name in by_name:
            todo += refs([*by_name[name].args, *by_name[name].kwargs.values()])
    first = {name for loop in used for name in loop.starts.values()}
    pending: list[Call | Loop] = [
        call for call in lo.program.calls if call.name in wanted and (call.name not in owner or call.name in first)
    ]
    pending += used
    while pending:
        waiting: list[Call | Loop] = []
        for item in pending:
            given = reads(item) if isinstance(item, Loop) else set(refs([*item.args, *item.kwargs.values()]))
            if not given <= lo.values.keys():
                waiting.append(item)
            elif isinstance(item, Loop):
                roll(lo, item)
            else:
                lo.walk([item])
        if len(waiting) == len(pending):
            raise UnsupportedError("a loop whose steps read what comes of later ones")
        pending = waiting


def roll(lo: Lowering, loop: Loop) -> None:
    """Put the loop's operations into the graph, and what is read of it outside among the lowering's values."""
    where = str(loop.body[-1])
    try:
        _roll(lo, loop)
    except Misread as error:
        raise Misread(f"a loop over frames, {where}: {error}") from None
    except CgruError as error:
        raise UnsupportedError(f"a loop over frames, {where}: {error}") from None


def _roll(lo: Lowering, loop: Loop) -> None:
    sources: dict[str, Tensor] = {}
    for sweep in dict.fromkeys(loop.frames.values()):
        x = lo.values[sweep.source]
        if not isinstance(x, Tensor) or x.axes[sweep.dim] != T:
            raise Misread("its frames are no frames of a sequence")
        x = lo.natural(x)
        if loop.backward:
            lo.sees_later(x, 1, "a loop from the end")
            x = replace(x, name=lo.emit("reverse_time", x.name))
        sources[sweep.source] = x
    lo.evident = True
    like = max((x.name for x in sources.values()), key=lambda name: _wholes(lo, name))
    for name, sweep in loop.frames.items():
        x = sources[sweep.source]
        lo.values[name] = replace(x, axes=(*x.axes[: sweep.dim], *x.axes[sweep.dim + 1 :]), at=1)
    firsts = {name: lo.values[name] for name in loop.starts.values()}  # these names become what is carried
    nodes: dict[str, str] = {}
    shapes = {call.name: call.shape for call in lo.program.calls}
    for first, (second, begin) in loop.carried.items():
        shape = shapes[second]
        if shape is None or not shape:
            raise UnsupportedError("what goes from step to step is no tensor")
        axes: tuple[Axis, ...] = (B, *range(len(shape) - 1))
        features = tuple(shape[1:]) or (1,)
        nodes[first] = lo.g.node("carried", like, features=features)
        lo.values[first] = _begun(lo, Tensor(nodes[first], axes, tuple(shape), at=1), begin, like)
    for call in loop.body:
        lo.values[call.name] = lo.shaped(lo.called(call), call.shape)
        if call.name in loop.starts:
            other = firsts[loop.starts[call.name]]
            if loop.backward and isinstance(other, Tensor):
                other = replace(other, name=lo.emit("reverse_time", other.name))
            lo.values[call.name] = _started(lo, lo.values[call.name], other, like)
    for first, (second, _) in loop.carried.items():
        value = lo.values[second]
        if not isinstance(value, Tensor) or value.at != 1:
            raise UnsupportedError("what goes from step to step is not computed of the frame")
        value = lo.natural(value)
        features = lo.features(nodes[first])
        name = value.name if lo.features(value) == features else lo.emit("reshape", value.name, features=features)
        if value.axes[0] != B or lo.features(name) != features:
            raise Misread("what goes from step to step is not (rows, features)")
        lo.g.node("carry", name, nodes[first])
    turned: dict[str, str] = {}
    for name, (step, twin) in loop.results.items():
        value = lo.values[twin]
        if not isinstance(value, Tensor):
            raise UnsupportedError("a result of it is not computed of the frame")
        if loop.backward:
            turned[value.name] = turned.get(value.name) or lo.emit("reverse_time", value.name)
            value = replace(value, name=turned[value.name])
        lo.results[name] = replace(value, at=loop.steps - 1 - step if loop.backward else step)
    lo.values.update(lo.results)


def _started(lo: Lowering, made: Any, first: Any, like: str) -> Tensor:
    """What a step gives, or, at the first, what that one computes of its frame instead."""
    if not isinstance(made, Tensor) or not isinstance(first, Tensor) or first.at is None or first.axes != made.axes:
        raise UnsupportedError("its first step computes something else than the others")
    return broadcast(lo, "where", [_flag(lo, made, like), made, replace(first, at=made.at)])


def _flag(lo: Lowering, like_value: Tensor, like: str) -> Tensor:
    """0 at the first step and 1 at all others, of the axes of a value."""
    begun = lo.g.node("carried", like, features=(1,))
    lo.g.node("carry", lo.emit("expand_time", lo.constant(np.ones(1, np.float32)), like), begun)
    return Tensor(begun, (*[None] * (len(like_value.axes) - 1), 0), at=like_value.at)


def _begun(lo: Lowering, held: Tensor, begin: Any, like: str) -> Tensor:
    """What a step begins with: what is carried, and at the first step what the loop begins with."""
    value = lo._resolved(begin) if isinstance(begin, Ref) else begin
    value = Known(np.asarray(value, np.float32)) if isinstance(value, (int, float)) else value
    if value is None:
        return held
    if isinstance(value, Known):
        array = np.broadcast_to(value.array, held.shape)
        if not np.all(array == array[:1]):
            raise UnsupportedError("it begins with a state that differs from row to row")
        if not np.any(array):
            return held
        start = lo.constant(np.ascontiguousarray(array[0]))
    elif isinstance(value, Tensor) and lo.clock(value) is None and B in value.axes:
        start = lo.natural(value).name
    else:
        raise UnsupportedError("it begins with something that cgru does not follow")
    features = lo.features(held)
    start = start if lo.features(start) == features else lo.emit("reshape", start, features=features)
    begun = lo.g.node("carried", like, features=(1,))
    lo.g.node("carry", lo.emit("expand_time", lo.constant(np.ones(1, np.float32)), like), begun)
    shown = begun if len(features) == 1 else lo.emit("reshape", begun, features=(1,) * len(features))
    return replace(held, name=lo.emit("where", shown, held.name, start))


def _wholes(lo: Lowering, name: str) -> int:
    """How many operations on whole sequences, one after the other, are before a value."""
    made = {node.name: node for node in lo.g.nodes}
    known: dict[str, int] = {}

    def count(of: str) -> int:
        node = made.get(of)
        if node is None:
            return 0
        if of not in known:
            known[of] = max((count(given) for given in node.inputs if given), default=0) + lo.is_whole(node)
        return known[of]

    return count(name)
