"""Keras' EinsumDense: a product with a kernel by Einstein's summation, of a value's last axes with new ones."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from .keras_draft import Draft, Step, Tensor
from .keras_graph import Entry
from .keras_settings import Build, Settings, check_shape
from .keras_weights import Weights


def einsum_dense(item: Entry, weights: Weights, build: Build) -> Step:
    """``"abc,cde->abde"``: the axes that the input shares with the kernel alone are summed, and stand last in it."""
    settings = Settings(item)
    equation, bias_axes = settings.value("equation"), settings.value("bias_axes", None)
    settings.value("output_shape", None)
    for key in ("gptq_unpacked_column_size", "quantization_config"):
        settings.value(key, None)
    activation = build.activated(settings, "activation")
    settings.finish()
    kept, summed, kernel_axes, new = _parts(item, equation)
    if bias_axes is not None and (not isinstance(bias_axes, str) or not set(bias_axes) <= set(new)):
        raise UnsupportedError(f"{item.where}: bias_axes={str(bias_axes)[:40]} other than among the new axes {new!r}")
    kernel, *bias = weights.take(["kernel", "bias"] if bias_axes else ["kernel"], item.where)
    if kernel.ndim != len(kernel_axes):
        raise FormatError(f"{item.where}: its kernel has shape {kernel.shape}, expected axes {kernel_axes!r}")
    ordered = kernel.transpose([kernel_axes.index(axis) for axis in (*new, *summed)])
    made, taken = ordered.shape[: len(new)], ordered.shape[len(new) :]
    matrix = {"weight": np.ascontiguousarray(ordered.reshape(prod(made), prod(taken)))}
    if bias and bias_axes:
        sizes = [made[i] for i, axis in enumerate(new) if axis in bias_axes]
        check_shape(bias[0], (*sizes, *(1,) * (bias[0].ndim - len(sizes))), f"{item.where}: bias")
        spread = bias[0].reshape([n if axis in bias_axes else 1 for axis, n in zip(new, made, strict=True)])
        matrix["bias"] = np.ascontiguousarray(np.broadcast_to(spread, made)).ravel()

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        x = d.only(args, kwargs)
        features = d.features(x)
        axes = len(features) + 1 + x.timed
        if (kept is not None and axes != kept + len(summed)) or features[-len(summed) :] != taken:
            raise d.refuse(f"{equation} takes {taken} last, its input is {d.value(x).describe()}")
        lead = features[: len(features) - len(summed)]
        flat = d.reshaped(x, *lead, prod(taken))
        y = d.node("dense", flat, weights=matrix, units=prod(made))
        y = d.activated(d.reshaped(y, *lead, *made), activation, "activation")
        return Tensor(y.name, y.timed, x.mask)

    return Step(emit=emit)


def _parts(item: Entry, equation: Any) -> tuple[int | None, str, str, str]:
    """Axes that stay (None: any number), those summed, the kernel's, and the new ones behind those that stay."""
    text = str(equation).replace(" ", "")
    left, arrow, right = text.partition("->")
    x, comma, kernel = left.partition(",")
    kept = "..." if x.startswith("...") else "".join(axis for axis in x if axis not in kernel)
    summed = x[len(kept) :]
    new = "".join(axis for axis in kernel if axis not in summed)
    letters = (x.removeprefix("..."), kernel, right.removeprefix("..."))
    fits = arrow and comma and summed and new and x == kept + summed and set(summed) <= set(kernel)
    if not fits or sorted(right.removeprefix(kept)) != sorted(new) or not right.startswith(kept) or any(
        not one.isalpha() or len(set(one)) != len(one) for one in letters
    ):  # fmt: skip
        raise UnsupportedError(
            f"{item.where}: equation {text[:40]!r}; a product of the last axes with a kernel runs, such as abc,cd->abd"
        )
    return (None if kept == "..." else len(kept)), summed, kernel, right.removeprefix(kept)
