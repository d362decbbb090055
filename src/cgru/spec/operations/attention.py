"""Attention: each frame of a sequence gets a mean of another sequence's frames, weighted by how well they match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..operation import Array, ArrayInfo, Operation, Option, Options, features, register, timed
from ..values import Value


@register
class Attend(Operation):
    """Σ_s softmax_s(score(q_t, k_s)) v_s: query (T, F), key (S, F), value (S, G) → (T, G).

    ``kind`` dot: score = factor · q · k (Luong et al. 2015; Vaswani et al. 2017 with factor 1 / √F). additive:
    score = Σ_f outer_f · tanh(inner_f · (q_f + k_f)) (Bahdanau et al. 2015, as Keras has it). Key and value share
    their frames, which may be another time axis than the query's. Frames that ``mask`` (S,) leaves out, and for
    ``causal`` those later than t, get no weight; of a sequence without frames that count: zero.
    """

    name = "attend"
    roles = ("query", "key", "value", "mask?")
    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option(str, "dot", ("dot", "additive")),
        "factor": Option(float, 1.0),
        "causal": Option(bool, False),
    }
    whole = True

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        query, key, value = (
            timed(features(x, where, role, axes=1), where, role)
            for x, role in zip(inputs, ("query", "key", "value"), strict=False)
        )
        if query.features != key.features:
            raise ShapeError(
                f"{where}: query and key must have the same features: {query.describe()}, {key.describe()}"
            )
        mask = inputs[3] if len(inputs) > 3 else None
        for other in (value, mask):
            if other is not None and other.clock != key.clock:
                raise ShapeError(f"{where}: key, value and mask must have the same frames, found {other.describe()}")
        if mask is not None and mask.dtype != "bool":
            raise ShapeError(f"{where}: its input mask is none")
        return Value(value.features, query.clock)

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        if options["kind"] == "dot":
            return {}
        assert inputs[0] is not None
        return {"inner": ArrayInfo(inputs[0].features), "outer": ArrayInfo(inputs[0].features)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        query, key, value = inputs[:3]
        mask = inputs[3] if len(inputs) > 3 else None
        if options["kind"] == "dot":
            scores = options["factor"] * (query @ np.swapaxes(key, 1, 2))
        else:
            both = np.tanh(arrays["inner"] * (query[:, :, None] + key[:, None]))
            scores = both @ arrays["outer"]
        shown = np.ones(scores.shape, bool)
        if mask is not None:
            shown = shown & mask[:, None]
        if options["causal"]:
            shown = shown & (np.tri(*scores.shape[1:]) > 0)
        hidden = np.where(shown, scores, -np.inf)
        top = np.max(hidden, axis=2, keepdims=True, initial=-np.inf)
        e = np.where(shown, np.exp(hidden - np.where(np.isfinite(top), top, 0)), 0)
        total = e.sum(axis=2, keepdims=True)
        weights = e / np.where(shown.any(axis=2, keepdims=True), total, 1)
        return weights @ value
