"""Attention among frames in ONNX: scores of every frame with every other, their masks and softmax, and means by it.

No such matrix is a value of cgru's graph: what the file does with one is followed until it weights a sequence, which is
the operation ``attend`` of each head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ...errors import FormatError
from ..containers.onnx_records import Node
from .onnx_arithmetic import Broadcast
from .onnx_draft import Group, plain_axes
from .onnx_lowering import Lowering, handles_pairs, reshaped_sizes
from .onnx_values import BATCH, TIME, Atom, Known, Scores, Tensor, Triangle, product, whole_numbers

#: What is added to scores or put in their place so that a softmax passes over them: this, or less.
PASSED_OVER = -1e4

#: Heads that are followed: each is an operation of its own.
_MOST_HEADS = 256


def scores(low: Lowering, node: Node, a: Tensor, b: Tensor) -> Scores:
    """a (…, T, d) times b (…, d, S)."""
    if low.lengths:
        raise low.unsupported(
            node, "attention to all frames, where rows have lengths: what is behind a row's end would count in it"
        )
    turned = Tensor(b.name, (*b.axes[:-2], b.axes[-1], b.axes[-2]))
    fronts = [Tensor(value.name, value.axes[:-2]) for value in (a, turned)]
    both = Broadcast(low, node, fronts)
    if any(TIME in atoms for atoms in both.axes):
        raise low.unsupported(node, "a matrix of every frame with every other, of each frame")
    names = []
    for value, front in zip((a, turned), fronts, strict=True):
        (inner,) = plain_axes(low.draft, Tensor(value.name, value.axes[-1:]), str(node))
        names.append(low.draft.arranged(value, [*both.groups(front), inner]))
    heads = _heads(both)
    if prod(heads) > _MOST_HEADS:
        raise low.unsupported(node, f"attention of {prod(heads)} heads; cgru follows {_MOST_HEADS}")
    names = [_repeated(low, name, heads) for name in names]
    lead = tuple(product(low.draft.atom_size(a, BATCH) if p == BATCH else p for p in parts) for parts in both.patterns)
    frames = (low.draft.axis_size(a, a.rank - 2), low.draft.axis_size(b, b.rank - 1))
    return Scores(names[0], names[1], tuple(both.axes), (*lead, *frames))


def _heads(both: Broadcast) -> list[int]:
    return [int(part) for pattern in both.patterns for part in pattern if not isinstance(part, str)]


def _repeated(low: Lowering, name: str, heads: Sequence[int]) -> str:
    """A value (heads …, d) that is the same for all heads of one axis, for each of them."""
    wanted = (*heads, low.draft.type(name).features[-1])
    return name if low.draft.type(name).features == wanted else low.draft.emit("broadcast", name, features=wanted)


def _held(node: Node, value: Any) -> Scores:
    """The scores, where an operator takes them; elsewhere among its inputs they have no meaning."""
    if not isinstance(value, Scores):
        raise FormatError(f"{node}: a matrix of every frame with every other where it takes something else")
    return value


def _split(node: Node, inputs: Sequence[Any]) -> tuple[Scores, Any, bool]:
    """The scores, the other operand, and whether the scores come first."""
    first, second = inputs[:2]
    return (first, second, True) if isinstance(first, Scores) else (_held(node, second), first, False)


@handles_pairs("Mul", "Div")
def _scaled(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    held, other, leads = _split(node, inputs)
    factor = float(other.array.reshape(-1)[0]) if _is_number(other) else 0.0
    if held.weights or not factor > 0 or (node.op == "Div" and not leads):
        raise low.unsupported(node, "scores of every frame with every other, other than times a number above 0")
    return replace(held, factor=held.factor * (factor if node.op == "Mul" else 1 / factor))


def _is_number(value: Any) -> bool:
    return isinstance(value, Known) and not value.is_shape and value.array.size == 1


@handles_pairs("Add", "Sub")
def _masked(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    held, mask, leads = _split(node, inputs)
    sign = 1 if node.op == "Add" else -1
    if held.weights or (node.op == "Sub" and not leads):
        raise low.unsupported(node, "arithmetic on weights of every frame for every other")

    def hides(array: np.ndarray) -> np.ndarray:
        hidden = sign * array <= PASSED_OVER
        if not np.all(hidden | (array == 0)):
            raise low.unsupported(node, "numbers added to the scores of pairs of frames (a bias of their distance?)")
        return hidden

    return _hiding(low, node, held, mask, hides)


@handles_pairs("Where")
def _chosen(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    condition, first, second = inputs
    held, fill = (first, second) if isinstance(first, Scores) else (second, first)
    if not isinstance(held, Scores) or not _is_number(fill):
        raise low.unsupported(node, "scores of every frame with every other where a computed condition says so")
    assert isinstance(fill, Known)
    if held.weights and isinstance(condition, Known) and not condition.array.any() and held is second:
        return held  # what guards a softmax against rows that are hidden whole
    if held.weights or not float(fill.array.reshape(-1)[0]) <= PASSED_OVER:
        raise low.unsupported(node, "scores of every frame with every other, filled with something else than −inf")
    hidden_where = held is second
    return _hiding(low, node, held, condition, lambda array: array.astype(bool) == hidden_where)


@handles_pairs("IsNaN")
def _never(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    """No frame is without one that it attends to, so no weight is."""
    held = inputs[0]
    if not isinstance(held, Scores) or not held.weights:
        raise low.unsupported(node, "a comparison of the scores of every frame with every other")
    return Known(np.zeros((1,) * len(held.shape), bool))


def _hiding(low: Lowering, node: Node, held: Scores, mask: Any, hides: Any) -> Scores:
    """The scores without the pairs that are hidden: none, or all of a later frame."""
    if isinstance(mask, Triangle):
        later, earlier = hides(mask.later.array), hides(mask.earlier.array)
        if earlier.any() or later.any() != later.all() or len(mask.shape) > len(held.shape):
            raise low.unsupported(node, "a mask of pairs of frames other than the causal one, which hides later frames")
        return replace(held, causal=held.causal or bool(later.all()))
    if not isinstance(mask, Known) or mask.is_shape:
        raise low.unsupported(node, "a mask of pairs of frames that is computed from the input")
    hidden = hides(mask.array)
    if not hidden.any():
        return held
    if mask.open or any(not isinstance(size, int) for size in held.shape[-2:]):
        raise low.unsupported(node, "a mask of pairs of frames that is not of their number")
    rank = len(held.shape)
    shape = [size if isinstance(size, int) else 1 for size in held.shape]
    pairs = np.broadcast_to(hidden, np.broadcast_shapes(hidden.shape, shape))
    if pairs.ndim > rank or not np.all(pairs == pairs[(slice(0, 1),) * (rank - 2)]):
        raise low.unsupported(node, "a mask of pairs of frames that differs from row to row or head to head")
    first = pairs[(0,) * (rank - 2)]
    if first.shape[0] != first.shape[1] or not np.array_equal(first, np.triu(np.ones(first.shape, bool), 1)):
        raise low.unsupported(node, "a mask of pairs of frames other than the causal one, which hides later frames")
    return replace(held, causal=True)


@handles_pairs("Softmax")
def _softmax(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    held = _held(node, inputs[0])
    rank = len(held.shape)
    axis = int(node.attributes.get("axis", 1 if node.version < 13 else -1))
    if held.weights or axis % rank != rank - 1:
        raise low.unsupported(node, "a softmax over the frames that attend, rather than those attended to")
    return replace(held, weights=True)


@handles_pairs("Identity", "Dropout", "Cast")
def _same(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    if node.op == "Cast" and node.attributes.get("to") not in (1, 10, 11, 16):
        raise low.unsupported(node, "scores of every frame with every other as whole numbers")
    training = inputs[2] if node.op == "Dropout" and len(inputs) > 2 else None
    if training is not None and bool(low.known(training, node, "training_mode")):
        raise low.unsupported(node, "dropout while training")
    return inputs[0]


@handles_pairs("Reshape")
def _regrouped(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    """Rows and heads in one axis or in several, in their order."""
    held = _held(node, inputs[0])
    wanted = reshaped_sizes(held.shape, whole_numbers(inputs[1], f"{node}: the shape"), node)
    if wanted[-2:] != held.shape[-2:]:
        raise low.unsupported(node, "frames of scores of every frame with every other under another shape")
    atoms = [atom for part in held.lead for atom in part]
    sizes = {atom: low.draft.atom_size(Tensor(held.query, ()), atom) for atom in atoms}
    lead: list[tuple[Atom, ...]] = []
    for size in wanted[:-2]:
        part: list[Atom] = []
        while product(sizes[atom] for atom in part) != size:
            if not atoms:
                raise low.unsupported(node, "heads of scores of every frame with every other taken apart")
            part.append(atoms.pop(0))
        lead.append(tuple(part))
    return replace(held, lead=tuple(lead), shape=wanted)


@handles_pairs("Transpose")
def _turned(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    held = _held(node, inputs[0])
    rank = len(held.shape)
    order = list(node.attributes.get("perm", tuple(reversed(range(rank)))))
    if sorted(order) != list(range(rank)) or order[-2:] != [rank - 2, rank - 1]:
        raise low.unsupported(node, "scores of every frame with every other, turned round")
    return replace(held, lead=tuple(held.lead[i] for i in order[:-2]), shape=tuple(held.shape[i] for i in order))


@handles_pairs("Einsum")
def _weighted_by_letters(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    """weights …qk and v, which has k and the letters in front too, to q and a letter of v's own."""
    held, v, leads = _split(node, inputs)
    equation = node.attributes["equation"].replace(" ", "")
    terms, _, out = equation.partition("->")
    a, _, b = terms.partition(",")
    lead, q, k = a[:-2], a[-2:-1], a[-1:]
    own = [c for c in b if c not in a]
    fits = leads and isinstance(v, Tensor) and v.rank == len(b) == len(lead) + 2 and len(a) == len(held.shape)
    if not fits or len(own) != 1 or sorted(b) != sorted([*lead, k, *own]) or sorted(out) != sorted([*lead, q, *own]):
        raise low.unsupported(node, f"the equation {equation!r} of scores of every frame with every other")
    turned = Tensor(v.name, tuple(v.axes[b.index(c)] for c in (*lead, k, *own)))
    made = weighted(low, node, held, turned)
    letters = [*lead, q, *own]
    return Tensor(made.name, tuple(made.axes[letters.index(c)] for c in out))


@handles_pairs("MatMul")
def _weighted(low: Lowering, node: Node, inputs: list[Any]) -> Any:
    held, given, leads = _split(node, inputs)
    if not leads:
        raise low.unsupported(node, "a sequence times scores of every frame with every other")
    return weighted(low, node, held, low.tensor(given, node))


def weighted(low: Lowering, node: Node, held: Scores, v: Tensor) -> Tensor:
    """Σ_s weights_ts v_s: weights (…, T, S) times v (…, S, d)."""
    if not held.weights:
        raise low.unsupported(node, "scores of every frame with every other that weight a sequence without a softmax")
    if v.rank < 2 or low.draft.segments(v, v.rank - 2) != [TIME]:
        raise low.unsupported(node, "weights of every frame for every other, of something that is no sequence")
    if low.draft.type(v.name).clock != low.draft.type(held.key).clock:
        raise low.unsupported(node, "weights of every frame for every other, of other frames than their keys")
    query = Tensor(held.query, held.lead)
    front = Tensor(v.name, v.axes[:-2])
    both = Broadcast(low, node, [query, front])
    heads = _heads(both)
    inner: list[Group] = plain_axes(low.draft, Tensor(v.name, v.axes[-1:]), str(node))
    last = (len(low.draft.features(query)) - 1,)
    parts = [
        low.draft.arranged(Tensor(name, held.lead), [*both.groups(query), last]) for name in (held.query, held.key)
    ]
    parts = [_repeated(low, name, heads) for name in (*parts, low.draft.arranged(v, [*both.groups(front), *inner]))]
    memory = _is_memory(low, held)
    if memory and held.causal:
        raise low.unsupported(node, "a causal mask between two sequences of their own lengths")
    each = [_apart(low, name) for name in parts]
    made = [
        low.draft.emit("attend", q, k, x, kind="dot", factor=held.factor, causal=held.causal, memory=memory)
        for q, k, x in zip(*each, strict=True)
    ]
    name = low.draft.emit("concat", *made) if len(made) > 1 else made[0]
    wanted = (*heads, low.draft.type(parts[2]).features[-1])
    if low.draft.type(name).features != wanted:
        name = low.draft.emit("reshape", name, features=wanted)
    return Tensor(name, (*both.axes, (TIME,), (both.count,)))


def _is_memory(low: Lowering, held: Scores) -> bool:
    """Whether the key's frames are given once, beside a query that advances with the network."""
    query, key = low.draft.type(held.query).clock, low.draft.type(held.key).clock
    return query is not None and key is not None and not query.root and bool(key.root)


def _apart(low: Lowering, name: str) -> list[str]:
    """Each head's part of a value (heads …, d)."""
    features = low.draft.type(name).features
    size, heads = features[-1], prod(features[:-1])
    if len(features) == 1:
        return [name]
    flat = low.draft.emit("reshape", name, features=(heads * size,))
    if heads == 1:
        return [flat]
    return [low.draft.emit("slice", flat, start=i * size, stop=(i + 1) * size, axis=0) for i in range(heads)]
