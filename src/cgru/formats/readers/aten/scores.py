"""Attention among frames: scores of every frame with every other, their masks, their softmax, and means by it.

No such matrix is a value of the graph: what forward() does with one is followed until it weights a sequence, which is
the operation ``attend`` of each head.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .lengths import PASSED_OVER
from .lowering import Lowering
from .values import PACKED, B, Heads, Known, Misread, S, Scores, T, Tensor, Within


def apart(value: Any) -> tuple[Any, int | None]:
    """A tensor with rows and heads on axes of their own, and where torch has them in one."""
    return (value.tensor, value.place) if isinstance(value, Heads) else (value, None)


def scores(lo: Lowering, a: Any, b: Any) -> Scores:
    """a (…, T, d) times b (…, d, S)."""
    (q, place), (k, other) = apart(a), apart(b)
    k = replace(k, axes=(*k.axes[:-2], k.axes[-1], k.axes[-2]))
    if place != other or q.axes[:-2] != k.axes[:-2] or not isinstance(q.axes[-1], int) or q.at is not None:
        raise UnsupportedError("products of every frame with every other, whose rows or heads disagree")
    if B not in q.axes[:-2] or any(axis != B and not isinstance(axis, int) for axis in q.axes[:-2]):
        raise Misread("products of every frame with every other, whose rows are not in front")
    q, k = lo.natural(q), lo.natural(k)
    lo.evident = True
    return Scores(q, k, (*q.axes[:-2], T, S), place)


def arithmetic(op: str, a: Any, b: Any) -> Any:
    """Scores times or by a number, or with a mask added; heads times a number. NotImplemented: neither is one."""
    held, other = (a, b) if isinstance(a, (Scores, Heads)) else (b, a)
    if not isinstance(held, (Scores, Heads)):
        return NotImplemented
    number = other.array if isinstance(other, Known) else other
    if isinstance(held, Scores) and op == "add" and not held.weights and isinstance(other, (Tensor, Heads)):
        return _biased(held, apart(other)[0])
    if isinstance(held, Scores) and op == "add" and not held.weights:
        if isinstance(other, Within) and other.negated and other.scale <= PASSED_OVER:
            return _behind_length(held, other)
        if isinstance(number, np.ndarray) and number.size > 1:
            hidden = number <= PASSED_OVER
            if np.all(hidden | (number == 0)):
                return hiding(held, hidden)
            raise UnsupportedError("numbers added to the scores of pairs of frames (a bias of their distance?)")
    size = float(np.reshape(number, ())) if np.size(number) == 1 and not isinstance(other, (Tensor, Within)) else 0.0
    if op in ("add", "sub") and size == 0 and np.size(number) == 1 and held is a:
        return held
    if op not in ("mul", "div") or size <= 0 or (op == "div" and held is b):
        raise UnsupportedError(f"{op} of scores of every frame with every other; factors and masks are followed")
    size = 1 / size if op == "div" else size
    if isinstance(held, Heads):
        return NotImplemented
    if held.weights:
        raise UnsupportedError(f"{op} of the weights of every frame for every other")
    return replace(held, factor=held.factor * size)


def _biased(held: Scores, bias: Tensor) -> Scores:
    """Scores and a number for each frame attended to, the same for all that attend (a mask of the input's padding)."""
    axes = (*[None] * (len(held.axes) - len(bias.axes)), *bias.axes)
    heads = held.axes[:-2]
    if len(axes) != len(held.axes) or axes[-1] != T or axes[-2] is not None or held.bias is not None:
        raise UnsupportedError("numbers added to the scores of pairs of frames, other than one for each attended to")
    if any(a is not None and type(a) is not type(b) for a, b in zip(axes[:-2], heads, strict=True)):
        raise UnsupportedError("numbers added to scores whose rows or heads disagree")
    return replace(held, bias=replace(bias, axes=axes))


def masked(lo: Lowering, held: Scores, mask: Any, value: Any) -> Scores:
    """The scores with ``value`` where the mask is True; a value that a softmax passes over."""
    number = value.array if isinstance(value, Known) else np.asarray(value)
    if held.weights or number.dtype.kind not in "fi" or not np.all(number <= PASSED_OVER):
        raise UnsupportedError("scores of every frame with every other, filled with something else than −inf")
    if isinstance(mask, Within):
        if not mask.negated:
            raise UnsupportedError("a mask that leaves out the frames within a row's length")
        return _behind_length(held, mask)
    if isinstance(mask, (Tensor, Heads)):
        tensor = apart(mask)[0]
        size = float(np.reshape(number, -1)[0])
        zero, low = (lo.constant(np.full(1, v, np.float32)) for v in (0.0, size))
        name = lo.emit("where", tensor.name, low, zero)
        return _biased(held, replace(tensor, name=name))
    if not isinstance(mask, Known):
        raise UnsupportedError("a mask of pairs of frames that is computed from the input")
    return hiding(held, mask.array.astype(bool))


def hiding(held: Scores, hidden: np.ndarray) -> Scores:
    """The scores without the pairs that are hidden: none, or all keys behind the query's frame."""
    rank, shape = len(held.shape), held.shape
    hidden = np.broadcast_to(hidden, shape) if hidden.ndim <= rank else hidden
    if hidden.ndim != rank or not np.all(hidden == hidden[(slice(0, 1),) * (rank - 2)]):
        raise UnsupportedError("a mask of pairs of frames that differs from row to row or head to head")
    pairs = hidden[(0,) * (rank - 2)]
    if not pairs.any():
        return held
    if pairs.shape[0] != pairs.shape[1] or not np.array_equal(pairs, np.triu(np.ones(pairs.shape, bool), 1)):
        raise UnsupportedError("a mask of pairs of frames other than the causal one, which hides all later frames")
    return replace(held, causal=True)


def _behind_length(held: Scores, mask: Within) -> Scores:
    if not mask.axes or mask.axes[-1] != T:
        raise UnsupportedError("a mask of rows' lengths that is not of the frames attended to")
    return replace(held, within=True)


def softmax(held: Scores, dim: int) -> Scores:
    if held.weights or dim % len(held.shape) != len(held.shape) - 1:
        raise UnsupportedError("a softmax over the frames that attend, rather than those attended to")
    return replace(held, weights=True)


def weighted(lo: Lowering, held: Scores, given: Any) -> Any:
    """Σ_s weights_ts v_s: weights (…, T, S) times v (…, S, d)."""
    if not held.weights:
        raise UnsupportedError("scores of every frame with every other that weight a sequence without a softmax")
    v, place = apart(given)
    if not isinstance(v, Tensor) or v.axes[:-2] != held.axes[:-2] or v.axes[-2] != T or place != held.place:
        raise UnsupportedError("weights of every frame for every other, of a sequence whose rows or heads disagree")
    if not isinstance(v.axes[-1], int) or lo.clock(v) != lo.clock(held.key):
        raise UnsupportedError("weights of every frame for every other, of other frames than their keys")
    v = lo.natural(v)
    if lo.lengths and not held.within and v.behind != PACKED:
        raise UnsupportedError(
            "attention to all frames, where rows have lengths: the padding behind them counts in it; mask its scores "
            "with −inf there (key_padding_mask, attn_mask)"
        )
    lead = lo.features(v)[:-1]
    parts = [_heads(lo, x) for x in (held.query, held.key, v)]
    if held.bias is not None:
        parts[:2] = _with_bias(lo, held, *parts[:2])
    if len({len(heads) for heads in parts}) > 1:
        raise UnsupportedError("attention whose queries, keys and values have different numbers of heads")
    made = [
        lo.emit("attend", q, k, x, kind="dot", factor=held.factor, causal=held.causal)
        for q, k, x in zip(*parts, strict=True)
    ]
    flat = lo.emit("concat", *made) if len(made) > 1 else made[0]
    name = lo.emit("reshape", flat, features=lo.features(v)) if lead else flat
    found = replace(v, name=name, shape=(*held.query.shape[:-1], v.shape[-1])).followed_by(None)
    return found if place is None else Heads(found, place)


def _with_bias(lo: Lowering, held: Scores, queries: list[str], keys: list[str]) -> tuple[list[str], list[str]]:
    """q · k · factor + bias of the key, as products: queries with 1 / factor behind them, keys with the bias."""
    bias = held.bias
    assert bias is not None
    if lo.clock(bias) != lo.clock(held.key):
        raise UnsupportedError("numbers added to scores of other frames than their keys'")
    size = lo.g.values[bias.name].size
    flat = bias.name if lo.features(bias) == (size,) else lo.emit("reshape", bias.name, features=(size,))
    if size not in (1, len(keys)):
        raise UnsupportedError("numbers added to scores, neither the same for all heads nor one for each")
    each = [flat] * len(keys)
    if size > 1:
        each = [lo.emit("slice", flat, start=i, stop=i + 1, axis=0) for i in range(size)]
    one = lo.constant(np.full(1, 1 / held.factor, np.float32))
    return [lo.emit("concat", q, one) for q in queries], [
        lo.emit("concat", k, more) for k, more in zip(keys, each, strict=True)
    ]


def _heads(lo: Lowering, x: Tensor) -> list[str]:
    """Each head's part of a value (heads …, d)."""
    features = lo.features(x)
    size, heads = features[-1], prod(features[:-1])
    if len(features) == 1:
        return [x.name]
    flat = lo.emit("reshape", x.name, features=(heads * size,))
    if heads == 1:
        return [flat]
    return [lo.emit("slice", flat, start=i * size, stop=(i + 1) * size, axis=0) for i in range(heads)]
