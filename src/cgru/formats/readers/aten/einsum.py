"""ATen's einsum: products of two values with letters for their axes, summed over letters that do not come out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .linear import summed
from .lowering import Lowering, handles
from .pointwise import broadcast
from .program import Call
from .scores import scores, weighted
from .values import Known, Scores, States, T, Tensor


@handles("einsum")
def _einsum(lo: Lowering, call: Call) -> Any:
    text, values = lo.arg(call, 0, "equation").replace(" ", ""), lo.arg(call, 1, "tensors")
    if "->" not in text or "." in text or len(values) != 2:
        raise UnsupportedError(f"einsum {text!r}; cgru follows two operands and letters with an arrow")
    terms, out = text.split("->")
    names = terms.split(",")
    if any(len(set(name)) != len(name) for name in names):
        raise UnsupportedError("einsum with a diagonal")
    values = [lo.stacked(value) if isinstance(value, States) else value for value in values]
    attended = _attention(lo, names, values, out)
    if attended is not None:
        return attended
    letters = list(out) + sorted({letter for name in names for letter in name} - set(out))
    aligned: list[Any] = []
    for name, value in zip(names, values, strict=True):
        if isinstance(value, Known):
            array = np.transpose(value.array, [name.index(c) for c in letters if c in name])
            aligned.append(
                Known(array.reshape([value.array.shape[name.index(c)] if c in name else 1 for c in letters]))
            )
        else:
            aligned.append(
                replace(value, axes=tuple(value.axes[name.index(c)] if c in name else None for c in letters))
            )
    both = broadcast(lo, "mul", aligned)
    for _ in range(len(letters) - len(out)):
        both = summed(lo, both, len(both.axes) - 1)
    return both


def _attention(lo: Lowering, names: list[str], values: list[Any], out: str) -> Any:
    """Scores of every frame with every other, and means weighted by them; None where it is neither."""
    (first, second), (a, b) = names, values
    if isinstance(b, Scores):
        (first, second), (a, b) = (second, first), (b, a)
    if isinstance(a, Scores) and isinstance(b, Tensor):
        lead, query, key = first[:-2], first[-2], first[-1]
        rest = [c for c in second if c not in first]
        if len(rest) != 1 or key in out or query in second or sorted(out) != sorted([*lead, query, *rest]):
            raise UnsupportedError("einsum of the weights of every frame for every other, not summed over the latter")
        made = weighted(lo, a, _ordered(b, second, [*lead, key, *rest]))
        return _ordered(made, [*lead, query, *rest], out)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return None
    query, key = (name[value.axes.index(T)] if T in value.axes else "" for name, value in ((first, a), (second, b)))
    if not query or not key or query == key or query not in out or key not in out:
        return None
    if out[-2:] == key + query:
        (first, a, query), (second, b, key) = (second, b, key), (first, a, query)
    lead, inner = out[:-2], [c for c in first if c in second and c not in out]
    if out[-2:] != query + key or len(inner) != 1 or sorted(first) != sorted([*lead, query, *inner]):
        raise UnsupportedError("einsum of every frame with every other, whose frames do not come out last")
    return scores(lo, _ordered(a, first, [*lead, query, *inner]), _ordered(b, second, [*lead, *inner, key]))


def _ordered(value: Tensor, letters: Any, wanted: Any) -> Tensor:
    places = [list(letters).index(c) for c in wanted]
    shape = tuple(value.shape[p] for p in places) if len(value.shape) == len(places) else ()
    return replace(value, axes=tuple(value.axes[p] for p in places), shape=shape)
