"""Attention: each frame of a sequence gets a mean of another sequence's frames, weighted by how well they match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..operation import Array, ArrayInfo, Operation, Option, Options, at_least, features, register, timed
from ..values import Value

if TYPE_CHECKING:
    from ..graph import Graph


class _Scores(Operation):
    """What attention and its weights share: how well frames of a query match those of a key."""

    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option(str, "dot", ("dot", "additive")),
        "factor": Option(float, 1.0),
    }

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        if options["kind"] == "dot":
            return {}
        assert inputs[0] is not None
        return {"inner": ArrayInfo(inputs[0].features), "outer": ArrayInfo(inputs[0].features)}


@register
class Attend(_Scores):
    """Σ_s softmax_s(score(q_t, k_s)) v_s: query (T, F), key (S, F), value (S, G) → (T, G).

    ``kind`` dot: score = factor · q · k (Luong et al. 2015; Vaswani et al. 2017 with factor 1 / √F; Luong's general
    form with W k as the key). additive: score = Σ_f outer_f · tanh(inner_f · (q_f + k_f)) (Bahdanau et al. 2015 with
    W q and W k as query and key; Keras with ``inner`` as its scale). Key and value share their frames, which may be
    another time axis than the query's. Frames that ``mask`` (S,) leaves out, and for ``causal`` those later than t, get
    no weight; of a sequence without frames that count: zero.

    With ``memory`` key, value and mask are given once (``g.input(F, time="memory")`` and what is made of it), so that
    each frame of the query has its answer at once: a decoder streams. Without, the whole sequence is needed.
    """

    name = "attend"
    roles = ("query", "key", "value", "mask?")
    options: ClassVar[Mapping[str, Option]] = {
        **_Scores.options,
        "causal": Option(bool, False),
        "memory": Option(bool, False),
    }

    def is_whole(self, options: Options) -> bool:
        return not options["memory"]

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        query, value = _checked(inputs, ("query", "key", "value"), 3, where)
        if options["memory"]:
            _check_memory(query, value, where)
            if options["causal"]:
                raise ShapeError(f"{where}: a memory is given whole, so its frames are none that come later (causal)")
        return Value(value.features, query.clock)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        query, key, value = inputs[:3]
        mask = inputs[3] if len(inputs) > 3 else None
        return attention_weights(options, query, key, mask, arrays, options["causal"]) @ value


@register
class AttendWeights(_Scores):
    """The weights of :class:`Attend` over a memory, softmax_s(score(q_t, k_s)): query (T, F), key (S, F) → (T, limit).

    For an alignment to be looked at. The memory has at most ``limit`` frames; behind its own there are zeros.
    """

    name = "attend_weights"
    roles = ("query", "key", "mask?")
    options: ClassVar[Mapping[str, Option]] = {**_Scores.options, "limit": Option(int, ..., at_least(1))}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        query, key = _checked(inputs, ("query", "key"), 2, where)
        _check_memory(query, key, where)
        return Value((options["limit"],), query.clock)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        query, key = inputs[:2]
        weights = attention_weights(options, query, key, inputs[2] if len(inputs) > 2 else None, arrays)
        made = np.zeros((*weights.shape[:2], options["limit"]), weights.dtype)
        made[..., : weights.shape[2]] = weights
        return made


def attention_weights(
    options: Options, query: Array, key: Array, mask: Array | None, arrays: Mapping[str, Array], causal: bool = False
) -> Array:
    """(B, T, S): the softmax over the frames of the key that are shown; zeros where none is."""
    if options["kind"] == "dot":
        scores = options["factor"] * (query @ np.swapaxes(key, 1, 2))
    else:
        both = np.tanh(arrays["inner"] * (query[:, :, None] + key[:, None]))
        scores = both @ arrays["outer"]
    shown = np.ones(scores.shape, bool)
    if mask is not None:
        shown = shown & mask[:, None]
    if causal:
        shown = shown & (np.tri(*scores.shape[1:]) > 0)
    hidden = np.where(shown, scores, -np.inf)
    top = np.max(hidden, axis=2, keepdims=True, initial=-np.inf)
    e = np.where(shown, np.exp(hidden - np.where(np.isfinite(top), top, 0)), 0)
    total = e.sum(axis=2, keepdims=True)
    return np.asarray(e / np.where(shown.any(axis=2, keepdims=True), total, 1))


def check_memory_frames(graph: Graph, frames: Mapping[str, int]) -> None:
    """Raise :class:`ShapeError` where a memory has more frames than a node gives weights of; frames by static input."""
    for node in graph.nodes:
        if node.op != "attend_weights":
            continue
        clock = graph.values[node.inputs[1]].clock
        found = clock.count(frames.get(clock.root, 0)) if clock is not None else 0
        if found > node.options["limit"]:
            root, limit = clock.root if clock else "", node.options["limit"]
            raise ShapeError(
                f"{root}: {node.name} gives the weights of {limit} frames at most (its option limit), found {found}"
            )


def _checked(inputs: Sequence[Value | None], roles: Sequence[str], mask_at: int, where: str) -> tuple[Value, Value]:
    """Query and the last of the others, all of which fit together."""
    query, key, *rest = (
        timed(features(x, where, role, axes=1), where, role) for x, role in zip(inputs, roles, strict=False)
    )
    if query.features != key.features:
        raise ShapeError(f"{where}: query and key must have the same features: {query.describe()}, {key.describe()}")
    mask = inputs[mask_at] if len(inputs) > mask_at else None
    for other in (*rest, mask):
        if other is not None and other.clock != key.clock:
            raise ShapeError(f"{where}: key, value and mask must have the same frames, found {other.describe()}")
    if mask is not None and mask.dtype != "bool":
        raise ShapeError(f"{where}: its input mask is none")
    return query, rest[0] if rest else key


def _check_memory(query: Value, key: Value, where: str) -> None:
    assert query.clock is not None
    assert key.clock is not None
    if not key.clock.root or query.clock.root:
        raise ShapeError(
            f"{where}: a memory has a time axis of its own, g.input(F, time='memory'), and the query the network's; "
            f"found {key.describe()} and {query.describe()}"
        )
