"""Keras layers that move numbers and change none, and TimeDistributed, which runs a layer at each step."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from ...errors import FormatError, UnsupportedError
from ...layers import Embedding
from .keras_draft import Draft, Step, Tensor
from .keras_graph import Entry, Part, entry
from .keras_pointwise import on_one
from .keras_settings import Build, Settings
from .keras_weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def repeat_vector(item: Entry, weights: Weights, build: Build) -> Step:
    """(B, F) → (B, n, F): the copies lie along a feature axis."""
    settings = Settings(item)
    count = settings.count("n")
    settings.finish()

    def run(d: Draft, x: Tensor) -> Tensor:
        if x.timed or len(d.features(x)) != 1:
            raise d.refuse(f"repeats vectors (batch, features), its input is {d.value(x).describe()}")
        (size,) = d.features(x)
        return d.node("broadcast", d.reshaped(x, 1, size), features=(count, size))

    return on_one(run, keeps_mask=False)


def reshape(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    target = settings.value("target_shape")
    settings.finish()
    if not isinstance(target, list) or any(type(v) is not int or not (v == -1 or 0 < v <= 1 << 24) for v in target):
        raise FormatError(f"{item.where}: target_shape is {str(target)[:60]!r}")
    return on_one(lambda d, x: reshaped(d, x, target), keeps_mask=False)


def reshaped(d: Draft, x: Tensor, target: Sequence[int]) -> Tensor:
    """Keras' axes behind the batch; -1 stands for what is left. The time axis stays where the steps stay whole."""
    if target.count(-1) > 1:
        raise d.refuse(f"a shape {tuple(target)} with several open axes")
    size = d.value(x).size
    count = d.count(x)
    if x.timed and target and target[0] in (-1, count) and prod(target[1:]) == size:
        return replace(d.reshaped(x, *target[1:]), timed=True, mask=None)
    x = d.folded(x, "taking its steps apart")
    size, known = d.value(x).size, prod(v for v in target if v != -1)
    wanted = tuple(size // known if v == -1 else v for v in target)
    if prod(wanted) != size:
        raise d.refuse(f"{d.value(x).describe()} has {size} numbers, not those of {tuple(target)}")
    return replace(d.reshaped(x, *wanted), mask=None)


def permute(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    dims = settings.value("dims")
    settings.finish()
    if not isinstance(dims, list) or sorted(map(str, dims)) != sorted(str(i + 1) for i in range(len(dims))):
        raise FormatError(f"{item.where}: dims is {str(dims)[:60]!r}, expected each axis once")

    def run(d: Draft, x: Tensor) -> Tensor:
        if len(dims) != len(d.shape(x)):
            raise d.refuse(f"dims={dims} for {len(d.shape(x))} axes")
        if x.timed and dims[0] == 1:
            order = tuple(v - 2 for v in dims[1:])
            return d.node("transpose", x, order=order)
        x = d.folded(x, "moving its steps to another axis")
        return d.node("transpose", x, order=tuple(v - 1 for v in dims))

    return on_one(run, keeps_mask=False)


def flatten(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    settings.channels_last()
    settings.finish()

    def run(d: Draft, x: Tensor) -> Tensor:
        x = d.folded(x, "flattening")
        return replace(d.reshaped(x, d.value(x).size), mask=None)

    return on_one(run, keeps_mask=False)


def time_distributed(
    item: Entry, weights: Weights, build: Build, builders: Mapping[str, Callable[..., Step]], at_each: Sequence[str]
) -> Step:
    """A layer at each step: its input is the step's features, without a time axis."""
    settings = Settings(item)
    inner = entry(settings.value("layer"), item.where)
    settings.finish()
    if inner.class_name not in builders or inner.class_name in ("Masking", "InputLayer"):
        raise UnsupportedError(f"{item.where}: wraps a {inner.class_name}, which cgru does not run at each step")
    step = builders[inner.class_name](inner, weights.part("layer", inner.name), build)
    if inner.class_name == "Embedding":
        return _each_embedded(item, step)
    if inner.class_name in at_each and step.layers is not None and not step.is_softmax:
        return Step([layer.renamed(item.name) for layer in step.layers])

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Any:
        x = d.only(args, kwargs)
        if not x.timed and inner.class_name not in at_each:
            raise d.refuse(f"wraps a {inner.class_name} over steps that an earlier layer took apart")
        inside = replace(x, timed=False, mask=None) if inner.class_name not in at_each else x
        y = step.run(d, [inside], {})
        if not isinstance(y, Tensor):
            raise d.refuse(f"wraps a {inner.class_name} that gives several results")
        return replace(y, timed=x.timed, mask=x.mask)

    return Step(emit=emit)


def _each_embedded(item: Entry, step: Step) -> Step:
    """Several ids a step, as characters of words are: (B, T, W) → (B, T, W, F)."""
    assert step.layers is not None
    (layer,) = step.layers
    assert isinstance(layer, Embedding)
    return Step(emit=lambda d, args, kwargs: d.plain_layer(layer, d.only(args, kwargs)))


def item_of(d: Draft, x: Tensor, index: Any) -> Tensor:
    """``x[:, -1]``, ``x[..., a:b]``: a step or a range of feature axes."""
    parts = index if isinstance(index, list) else [index]
    shape = (None, *d.shape(x))
    if ... in [p for p in parts if not isinstance(p, Part)]:
        at = parts.index(...)
        parts = parts[:at] + [Part(None, None, None)] * (len(shape) - len(parts) + 1) + parts[at + 1 :]
    if not parts or len(parts) > len(shape) or parts[0] != Part(None, None, None):
        raise d.refuse(f"takes {str(index)[:60]}, which cgru does not run")
    y = x
    for axis in range(len(parts) - 1, 0, -1):
        part = parts[axis]
        if part == Part(None, None, None):
            continue
        y = _taken(d, y, axis, part)
    return replace(y, mask=y.mask if len(parts) > 1 and y.timed else None)


def _taken(d: Draft, x: Tensor, axis: int, part: Any) -> Tensor:
    if x.timed and axis == 1:
        if part in (-1, 0):
            return d.node("pool_whole", x, kind="last" if part == -1 else "first", timed=False)
        if isinstance(part, Part) and part.step in (None, 1):
            start, stop = part.start or 0, part.stop
            if type(start) is int and start >= 0 and (stop is None or (type(stop) is int and stop < 0)):
                return d.node("pad_time", x, part="cropped", left=-start, right=stop or 0)
        x = d.folded(x, "taking steps out")
    timed = x.timed
    at = axis - (2 if timed else 1)
    size = d.features(x)[at]
    if type(part) is int:
        start = part + size if part < 0 else part
        y = d.node("slice", x, part="taken", axis=at, start=start, stop=start + 1)
        left = [n for i, n in enumerate(d.features(y)) if i != at]
        if not left:
            raise d.refuse("takes a single feature, which leaves no feature axis; take a range of one")
        return d.reshaped(y, *left)
    if not isinstance(part, Part) or any(
        v is not None and type(v) is not int for v in (part.start, part.stop, part.step)
    ):
        raise d.refuse(f"takes {str(part)[:60]}, which cgru does not run")
    start, stop, step = slice(part.start, part.stop, part.step).indices(size)
    if step < 1 or start >= stop:
        d.listed(len(range(start, stop, step)))
        return d.node("take", x, part="taken", axis=at, indices=tuple(range(start, stop, step)))
    return d.node("slice", x, part="taken", axis=at, start=start, stop=stop, step=step)
