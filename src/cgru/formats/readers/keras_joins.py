"""Keras layers of several inputs: sums and products of branches, concatenation, Dot, attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from .keras_draft import Draft, Scores, Step, Tensor
from .keras_graph import Entry
from .keras_pointwise import unit
from .keras_settings import Build, Settings
from .keras_weights import Weights


def _several(d: Draft, args: list[Any], kwargs: dict[str, Any], *known: str) -> list[Tensor]:
    for key in kwargs:
        if key not in ("mask", *known):
            raise d.refuse(f"is called with {key[:60]}=, which cgru does not take from files")
    given = args[0] if len(args) == 1 and isinstance(args[0], list) else args
    found = [d.tensor(one) for one in given]
    if len(found) < 1:
        raise d.refuse("is called without an input")
    return found


def aligned(d: Draft, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of as many axes, all of them sequences or none: a sequence beside a value that is none is taken apart."""
    timed = [x.timed for x in inputs]
    if any(timed) and not all(timed):
        # (B, F) beside (B, T, F) has fewer axes, which Keras lines up from the front: (B, 1, F).
        ranks = {len(d.shape(x)) for x in inputs}
        if len(ranks) > 1:
            raise d.refuse("joins values with and without steps; say which axis is meant by Reshape((1, features))")
        firsts = {d.features(x)[0] for x in inputs if not x.timed}
        if firsts == {1}:  # one step for all
            return [x if x.timed else d.reshaped(x, *d.features(x)[1:]) for x in inputs]
        return [d.folded(x, "joining a sequence with axes of known size") for x in inputs]
    return list(inputs)


def joined_mask(d: Draft, inputs: Sequence[Tensor]) -> Tensor | None:
    """The mask of a sum, product or concatenation: Keras takes a step where any input has it."""
    masks = {x.mask for x in inputs}
    if masks == {None}:
        return None
    if len(masks) > 1:
        raise d.refuse("joins values with different masks")
    return masks.pop()


def merge(op: str) -> Callable[[Entry, Weights, Build], Step]:
    """Add, Subtract, Multiply, Average, Maximum and Minimum."""

    def build_layer(item: Entry, weights: Weights, build: Build) -> Step:
        Settings(item).finish()

        def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
            given = _several(d, args, kwargs)
            if len({len(d.shape(x)) for x in given}) > 1:
                raise d.refuse("joins values of different numbers of axes")
            inputs = aligned(d, given)
            mask, y = _mask_of_call(d, kwargs, inputs), inputs[0]
            if mask is not None and d.unmasked and op in ("maximum", "minimum", "mul"):
                raise d.refuse("joins masked values behind attention, where Keras takes the mask off what it has read")
            for x in inputs[1:]:
                if mask is not None and op in ("maximum", "minimum"):
                    x = _where(d, mask, x, y)
                y = d.node("add" if op == "average" else op, y, x)
            if op == "average":
                y = d.node("mul", y, d.constant(1 / len(inputs)), part="mean")
            if mask is not None and op == "mul":
                y = d.node("apply_mask", y, mask, part="shown")
            return replace(y, mask=mask)

        return Step(emit=emit)

    return build_layer


def _where(d: Draft, mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x at frames that count, y at the others: Keras' Maximum and Minimum leave a masked frame as it is."""
    return d.node("where", d.node("apply_mask", d.constant(1.0), mask, part="counts"), x, y, part="chosen")


def _mask_of_call(d: Draft, kwargs: dict[str, Any], inputs: Sequence[Tensor]) -> Tensor | None:
    given = kwargs.get("mask")
    if isinstance(given, list):
        inputs = [replace(x, mask=m if m is None else d.mask(m)) for x, m in zip(inputs, given, strict=False)]
    return joined_mask(d, [x for x in inputs if x.timed]) if any(x.timed for x in inputs) else None


def concatenate(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    axis = settings.value("axis", -1)
    settings.finish()
    if type(axis) is not int:
        raise FormatError(f"{item.where}: axis is {str(axis)[:60]!r}")
    return Step(emit=lambda d, args, kwargs: joined(d, _several(d, args, kwargs), axis, kwargs))


def joined(d: Draft, given: Sequence[Tensor], axis: int, kwargs: dict[str, Any]) -> Tensor:
    inputs = aligned(d, given)
    rank = len(d.shape(inputs[0])) + 1
    at = axis + rank if axis < 0 else axis
    if inputs[0].timed and at == 1:
        inputs = [d.folded(x, "joining one sequence behind another") for x in inputs]
    mask = _mask_of_call(d, kwargs, inputs)
    spread = [d.features(x) for x in inputs]
    at -= 2 if inputs[0].timed else 1
    if not 0 <= at < len(spread[0]):
        raise d.refuse(f"axis={axis} of {rank} axes")
    y = d.node("concat", *inputs, axis=at)
    return replace(y, mask=mask)


# ---- products --------------------------------------------------------------------------------------------


def dot(item: Entry, weights: Weights, build: Build) -> Step:
    """Σ over one axis of each: (B, M, K) and (B, N, K) with axes=2 → (B, M, N).

    Over numbers of steps that are open it is run where it is attention, or a sequence weighted and summed.
    """
    settings = Settings(item)
    axes, normalize = settings.value("axes"), settings.flag("normalize", False)
    settings.finish()
    pair = [axes, axes] if type(axes) is int else axes
    if not isinstance(pair, list) or len(pair) != 2 or any(type(a) is not int for a in pair):
        raise FormatError(f"{item.where}: axes is {str(axes)[:60]!r}, expected a number or two")

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Any:
        given = args[0] if len(args) == 1 and isinstance(args[0], list) else args
        if len(given) == 2 and isinstance(given[0], Scores) and given[0].weighs and pair in ([2, 1], [-1, 1], [-1, -2]):
            scores, value = given[0], d.tensor(given[1])
            seen = replace(value, mask=None)
            return attended(d, scores.query, scores.key, seen, causal=False, additive=False, scale=None, total=None)
        inputs = [replace(x, mask=None) for x in _several(d, args, kwargs)]  # Keras' Dot takes no masks
        if len(inputs) != 2:
            raise d.refuse(f"is called with {len(inputs)} inputs, expected two")
        if all(x.timed and len(d.features(x)) == 1 and d.count(x) is None for x in inputs) and not normalize:
            if all(a in (2, -1) for a in pair):
                return Scores(inputs[0], inputs[1])
            if pair in ([1, 1], [-2, -2]) and 1 in (d.features(x)[0] for x in inputs):
                return _weighted_sum(d, inputs[0], inputs[1])
        sides = [d.folded(x, "a product over steps") for x in inputs]
        at = [(a + len(d.features(x)) + 1 if a < 0 else a) - 1 for a, x in zip(pair, sides, strict=True)]
        ranks = [len(d.features(x)) for x in sides]
        if any(not 0 <= a < rank <= 2 for a, rank in zip(at, ranks, strict=True)):
            raise d.refuse(f"axes={pair} of values with {ranks[0] + 1} and {ranks[1] + 1} axes")
        if normalize:
            sides = [unit(d, x, a) for x, a in zip(sides, at, strict=True)]
        left, right = sides
        if ranks[0] == 1:
            left = d.reshaped(left, 1, d.features(left)[0])
        elif at[0] == 0:
            left = d.node("transpose", left, part="left", order=(1, 0))
        if ranks[1] == 1:
            right = d.reshaped(right, d.features(right)[0], 1)
        elif at[1] == 1:
            right = d.node("transpose", right, part="right", order=(1, 0))
        y = d.node("matmul", left, right)
        kept = [n for n, rank in zip(d.features(y), ranks, strict=True) if rank == 2]
        return d.reshaped(y, *(kept or [1]))

    return Step(emit=emit)


def _weighted_sum(d: Draft, left: Tensor, right: Tensor) -> Tensor:
    """Σ over the steps of one sequence times the other, one of which has one number a step: (B, M, N)."""
    y = d.node("pool_whole", d.node("mul", left, right, part="weighted"), part="sum", kind="sum", timed=False)
    return d.reshaped(y, d.features(left)[0], d.features(right)[0])


def attention(item: Entry, weights: Weights, build: Build) -> Step:
    """softmax(q kᵀ) v, and AdditiveAttention's softmax(Σ tanh(q + k)) v, over the steps of k and v."""
    settings = Settings(item)
    has_scale = settings.flag("use_scale", item.class_name == "AdditiveAttention")
    mode = settings.word("score_mode", ("dot", "concat"), "dot") if item.class_name == "Attention" else "concat"
    if settings.flag("causal", False):
        raise _not_run(item, "causal=True")
    settings.finish()
    slots = ["scale"] * has_scale + ["concat_score_weight"] * (mode == "concat" and item.class_name == "Attention")
    arrays = dict(zip(slots, weights.take(slots, item.where) if slots else [], strict=True))

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        inputs = _several(d, args, kwargs, "use_causal_mask", "return_attention_scores", "training")
        if kwargs.get("return_attention_scores"):
            raise d.refuse("return_attention_scores=True is not run")
        if len(inputs) not in (2, 3):
            raise d.refuse(f"is called with {len(inputs)} inputs, expected a query and a value, or these and a key")
        given = kwargs.get("mask")
        if isinstance(given, list):
            if len(given) > len(inputs):
                raise d.refuse("is called with more masks than inputs")
            inputs = [
                replace(x, mask=d.mask(given[i]) if i < len(given) and given[i] is not None else None)
                for i, x in enumerate(inputs)
            ]
        query, value = inputs[:2]
        key = inputs[2] if len(inputs) == 3 else value
        y = attended(
            d, query, key, value, causal=bool(kwargs.get("use_causal_mask")), additive=mode == "concat",
            scale=arrays.get("scale"), total=arrays.get("concat_score_weight"),
        )  # fmt: skip
        if query.mask is not None:
            y = d.node("apply_mask", y, query.mask, part="masked")
        return replace(y, mask=query.mask)

    return Step(emit=emit)


def _not_run(item: Entry, what: str) -> UnsupportedError:
    return UnsupportedError(f"{item.where}: {what} is not run")


def attended(
    d: Draft, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, additive: bool,
    scale: np.ndarray | None, total: np.ndarray | None,
) -> Tensor:  # fmt: skip
    if not (query.timed and key.timed and value.timed):
        raise d.refuse("attends to something that is no sequence")
    if additive:
        size = d.listed(d.features(query)[-1])
        vector = np.ones(size, np.float32)
        learned = vector if scale is None else np.broadcast_to(np.asarray(scale, np.float32).ravel(), size)
        held = {"inner": vector, "outer": learned}  # AdditiveAttention: scale · tanh(q + k)
        if total is not None:  # Attention by score_mode="concat": weight · Σ tanh(scale · (q + k))
            held = {"inner": learned, "outer": vector * np.float32(np.asarray(total).ravel()[0])}
        return d.attend(query, key, value, held, "additive", causal)
    factor = 1.0 if scale is None else float(np.asarray(scale).ravel()[0])
    return d.attend(query, key, value, None, "dot", causal, factor)


def _seeing(d: Draft, query: Tensor | None, key: Tensor | None) -> Tensor | None:
    """1 at queries that count of rows with a key that counts, 0 elsewhere; None where all of them do."""
    made = None if query is None else d.node("apply_mask", d.constant(1.0), query, part="counts")
    if key is None or key == query:
        return made
    seen = d.node("apply_mask", d.constant(1.0), key, part="seen")
    row = d.node("pool_whole", seen, part="any", kind="max", timed=False)
    return row if made is None else d.node("mul", made, row, part="sees")


def multi_head_attention(item: Entry, weights: Weights, build: Build) -> Step:
    """Vaswani et al. 2017: attention in each of several projections of query, key and value, then one of them all."""
    settings = Settings(item)
    heads, width = settings.one("num_heads"), settings.one("key_dim")
    value_width = settings.one("value_dim") if settings.value("value_dim", None) is not None else width
    has_bias = settings.flag("use_bias", True)
    for key in ("output_shape", "attention_axes", "use_gate"):
        if settings.value(key, None) not in (None, False, [1]):
            raise _not_run(item, f"{key}={str(item.config[key])[:40]}")
    for key in ("flash_attention", "query_shape", "key_shape", "value_shape", "sliding_window"):
        settings.value(key, None)
    settings.finish()
    slots = ["kernel", "bias"] if has_bias else ["kernel"]
    made: dict[str, dict[str, np.ndarray]] = {}
    for name in ("query", "key", "value", "attention_output"):
        path = {"attention_output": "output_dense"}.get(name, f"{name}_dense")
        kernel, *bias = weights.part(path).take(slots, f"{item.where}: {name}")
        flat = (
            kernel.reshape(-1, kernel.shape[-1]) if name == "attention_output" else kernel.reshape(kernel.shape[0], -1)
        )
        made[name] = {"weight": np.ascontiguousarray(flat.T), **({"bias": bias[0].ravel()} if bias else {})}
    if made["query"]["weight"].shape[0] != heads * width:
        raise _not_run(item, f"{made['query']['weight'].shape[0]} rows for {heads} heads of {width}")

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        known = ("use_causal_mask", "training", "query", "value", "key", "query_mask", "value_mask", "key_mask")
        roles = [*args, *[kwargs[k] for k in ("query", "value", "key")[len(args) :] if k in kwargs]]
        inputs = _several(d, roles, kwargs, *known)
        if len(inputs) not in (2, 3):
            raise d.refuse(f"is called with {len(inputs)} inputs, expected a query and a value, or these and a key")
        query, value = inputs[:2]
        key = inputs[2] if len(inputs) == 3 else value
        for name, x in (("query_mask", query), ("value_mask", value), ("key_mask", key)):
            if kwargs.get(name) is not None and d.mask(kwargs[name]) != x.mask:
                raise d.refuse(f"its {name} is not that of the {name[:-5]}")
        mask = value.mask
        if key.mask is not None and key.mask != mask:
            mask = key.mask if mask is None else d.node("mask_and", mask, key.mask, part="mask")
        causal = bool(kwargs.get("use_causal_mask"))
        if mask is not None or query.mask is not None:
            if d.unmasked:
                raise d.refuse("attends under a mask behind another that did: Keras takes it off what that has read")
            if causal and (query != key or query != value):
                raise d.refuse("attends to another sequence under a mask and use_causal_mask, which cgru does not run")
            d.unmasked = True
        sides = [
            d.node("dense", x, part=name, weights=made[name], units=made[name]["weight"].shape[0])
            for name, x in (("query", query), ("key", key), ("value", value))
        ]
        parts = []
        for head in range(heads):
            q, k, v = (
                d.node("slice", x, part=f"head_{head}", start=head * n, stop=(head + 1) * n)
                for x, n in zip(sides, (width, width, value_width), strict=True)
            )
            v = replace(v, mask=mask)
            parts.append(d.attend(q, k, v, None, "dot", causal, 1 / float(np.sqrt(width))))
        heads_of = d.node("concat", *parts, part="heads") if len(parts) > 1 else parts[0]
        sees = _seeing(d, query.mask, mask)
        if sees is not None:
            # Scores that are all as low as can be leave equal weights.
            mean = d.node("pool_whole", sides[2], part="mean", kind="mean", timed=False)
            heads_of = d.node("where", sees, heads_of, mean, part="masked")
        y = d.node(
            "dense", heads_of, weights=made["attention_output"], units=made["attention_output"]["weight"].shape[0]
        )
        return replace(y, mask=query.mask)

    return Step(emit=emit)
