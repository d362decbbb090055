"""A traced program → a network: which axes are rows and frames is what lets every operator of it be understood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np

from ....builder import Graph
from ....errors import UnsupportedError
from ....layers import Layer
from ..onnx_cells import recognised
from . import (
    attention,
    convolution,
    einsum,
    joins,
    linear,
    movement,
    parts,
    pointwise,
    pooling,
    recurrent,
    reduction,
    spectra,
    views,
)
from .inplace import functional
from .loops import loops_of
from .lowering import Lowering
from .program import Argument, Program, Ref, without_whole_slices
from .rolled import walk_with
from .values import BT, TB, B, Lengths, Misread, States, T, Tensor, Within

_FAMILIES = (
    attention,
    convolution,
    einsum,
    joins,
    linear,
    movement,
    parts,
    pointwise,
    pooling,
    recurrent,
    reduction,
    spectra,
    views,
)  # each fills the table of handlers

#: What the axes of an input may be, by their number, the likeliest first; F are features, 1 an axis of one.
_FLOATS = {
    1: ["T"],
    2: ["BT", "BF", "TB", "TF"],
    3: ["BTF", "TBF", "BFT", "1BF", "FBF", "BFF"],
    4: ["BFTF", "BTFF", "BFFT", "BFFF"],
    5: ["BTFFF", "BFTFF", "TBFFF"],
}
_WHOLE = {1: ["L", "B", "T"], 2: ["BT", "TB", "BF"], 3: ["BTF", "TBF"]}
_MOST = 256


class Layout(NamedTuple):
    """How torch has a tensor whose features cgru has behind rows and frames."""

    axes: tuple[Any, ...]
    features: tuple[int, ...]

    def ours(self, array: np.ndarray, rows: int) -> np.ndarray:
        """torch's array as cgru gives it, (B, [T,] *features)."""
        axes, shape = list(self.axes), list(array.shape)
        for p in reversed(range(len(axes))):
            if axes[p] in (BT, TB):
                other = shape[p] // max(rows, 1)
                first, second = axes[p]
                shape[p : p + 1] = [rows, other] if first == B else [other, rows]
                axes[p : p + 1] = [first, second]
        array = array.reshape(shape)
        order = [axes.index(axis) for axis in (B, T) if axis in axes]
        order += [p for _, p in sorted((axis, p) for p, axis in enumerate(axes) if isinstance(axis, int))]
        kept = array.transpose(*order, *(p for p, axis in enumerate(axes) if axis is None))
        lead = kept.shape[: sum(axis in (B, T) for axis in axes)]
        lead = lead if B in axes else (1, *lead)
        return kept.reshape(*lead, *self.features)

    def theirs(self, array: np.ndarray) -> np.ndarray:
        """cgru's array as torch takes it."""
        own = [axis for axis in (B, T) if axis in self.axes]
        numbers = sorted(axis for axis in self.axes if isinstance(axis, int))
        if B not in self.axes:
            array = array[0]
        array = array.reshape(*array.shape[: len(own)], *(self.features if numbers else ()))
        found = [*own, *numbers]
        array = array.transpose([found.index(axis) for axis in self.axes if axis is not None])
        for p, axis in enumerate(self.axes):
            if axis is None:
                array = np.expand_dims(array, p)
        return array


class Traced(NamedTuple):
    """``made`` is a chain of layers, or a graph. ``inputs`` and ``outputs`` say how torch has what goes in and comes
    out; an input without a layout is the lengths of the rows. ``notes`` are sentences for ``print(net)``."""

    made: list[Layer] | Graph
    inputs: dict[str, Layout | None]
    outputs: list[tuple[str, Layout]]
    positions: list[int]
    notes: list[str]


def traced(program: Program, *, exported: bool = False, archived: bool = False) -> Traced:
    """The network that a program computes; :class:`UnsupportedError` naming the operator and line that it cannot.

    ``exported``: nothing will run beside it, so a factor that may be the number of steps or rows is refused.
    ``archived``: it comes of a file whose code was followed at sizes of cgru's choosing, which checks that by itself.
    """
    program = without_whole_slices(functional(program))
    best: tuple[int, UnsupportedError] | None = None  # of the reading that went furthest
    loops = loops_of(program)
    for reading in islice(_readings(program.inputs), _MOST):
        for rolled in (False, True) if loops else (False,):
            lowering = None
            try:
                lowering = Lowering(program, reading)
                lowering.exported = exported
                lowering.archived = exported or archived
                if rolled:
                    walk_with(lowering, loops)
                else:
                    lowering.walk()
                if not lowering.evident and any(T in axes and list(axes)[:2] != [B, T] for axes in reading):
                    continue  # any axis could be time: what says that it is not the second?
                return _finished(lowering, reading)
            except UnsupportedError as error:
                rank = (lowering.reached if lowering is not None else 0, not isinstance(error, Misread))
                if best is None or rank > (best[0], not isinstance(best[1], Misread)):
                    best = (rank[0], error)
    raise best[1] if best else UnsupportedError("nothing in it says which axis is time")


def _readings(inputs: Sequence[Argument]) -> Iterator[tuple[tuple[str, ...], ...]]:
    choices = []
    for argument in inputs:
        table = _WHOLE if argument.integer else _FLOATS
        known = table.get(len(argument.shape))
        if known is None:
            kind = "whole numbers" if argument.integer else "numbers"
            raise UnsupportedError(
                f"its input {argument.name!r} is an array of {kind} with "
                f"{len(argument.shape)} axes, which cgru takes none of"
            )
        fitting = [tuple(text) for text in known if _fits(text, argument)]
        choices.append(fitting)
    if not choices:
        raise UnsupportedError("it takes no input")
    long = any(len(argument.shape) > 2 for argument in inputs)
    return (reading for reading in product(*choices) if not long or any(T in axes for axes in reading))


def _fits(text: str, argument: Argument) -> bool:
    return all(letter != "1" or size == 1 for letter, size in zip(text, argument.shape, strict=True))


def _finished(lo: Lowering, reading: Sequence[Sequence[str]]) -> Traced:
    outputs: list[tuple[str, Layout]] = []
    positions, notes, states = [], [], []
    for place, (title, value) in enumerate(lo.program.outputs):
        found = lo._resolved(value) if isinstance(value, Ref) else value
        if found is None or isinstance(found, (Lengths, Within)):
            continue
        if isinstance(found, States):
            states.append((place, title, found))
            continue
        if not isinstance(found, Tensor):
            raise UnsupportedError(f"its output {title!r} does not depend on the input")
        outputs.append((title, _output(lo, title, found)))
        positions.append(place)
    if not outputs:
        for place, title, found in states:
            outputs.append((title, _output(lo, title, lo.stacked(found))))
            positions.append(place)
    elif states:
        notes.append(
            f"its output {', '.join(title for _, title, _ in states)} is the state after the last step, which "
            "net.run(x) gives beside the outputs, and net.run(x, state) goes on from"
        )
    if not outputs:
        raise UnsupportedError("it gives nothing that depends on the input")
    names = [lo.g.outputs[i] for i in range(len(outputs))]
    layouts: dict[str, Layout | None] = {}
    for argument, axes in zip(lo.program.inputs, reading, strict=True):
        if argument.name in lo.lengths:
            layouts[argument.name] = None
            continue
        value = lo.values[argument.name]
        layouts[argument.name] = Layout(value.axes, lo.features(argument.name))
        shown = [axis for axis in axes if axis in (B, T)]
        if shown == [T, B] or (T in axes and list(axes).index(T) == len(axes) - 1 and len(axes) > 2):
            text = ", ".join(axes)
            notes.append(
                f"the module takes {argument.name} as ({text}); here it is {lo.g.values[argument.name].describe()}"
            )
    chain = _chain(lo, names)
    if chain is not None and not (lo.archived and notes):
        return Traced(chain, layouts, outputs, positions, notes)
    if lo.exported and chain is None:
        sizes = " and ".join(f"{argument.name} {argument.shape}" for argument in lo.program.inputs)
        notes.append(f"exported with {sizes}: a number that forward() computes of sizes is what it was then")
    lo.g.notes = list(notes)
    recognised(lo.g)
    _prune(lo.g)
    _rename(lo, outputs)
    return Traced(lo.g, layouts, outputs, positions, notes)


def _output(lo: Lowering, title: str, value: Tensor) -> Layout:
    if value.at is not None:
        value = lo.alone(value)
    if value.axes and not any(axis in (B, BT, TB) for axis in value.axes) and len(lo.program.inputs[0].shape) > 2:
        raise Misread(f"its output {title!r} has no axis of rows")
    value = lo.natural(value)
    if not lo.features(value):
        value = replace(value, name=lo.emit("reshape", value.name, features=(1,)))
    if value.name in lo.g.outputs:
        value = replace(value, name=lo.g.node("reshape", value.name, features=lo.features(value)))
    if value.name in lo.g.inputs:
        value = replace(value, name=lo.g.node("reshape", value.name, features=lo.features(value)))
    lo.g.output(value.name)
    return Layout(value.axes, lo.features(value))


def _chain(lo: Lowering, names: Sequence[str]) -> list[Layer] | None:
    """The layers in order, where the network is nothing else."""
    if len(names) != 1 or len(lo.g.inputs) != 1:
        return None
    layers: list[Layer] = []
    name = names[0]
    while name not in lo.g.inputs:
        if name not in lo.made_by:
            return None
        layer, name = lo.made_by[name]
        layers.append(layer)
    return layers[::-1] or None


def _prune(g: Graph) -> None:
    """Leave out what the outputs do not need."""
    needed = set(g.outputs)
    carries = {node.inputs[1]: node.name for node in g.nodes if node.op == "carry"}
    found = 0
    while len(needed) > found:  # what is carried needs what it is written with, which stands behind it
        found = len(needed)
        needed.update(carries[name] for name in carries if name in needed)
        for node in reversed(g.nodes):
            if node.name in needed:
                needed.update(name for name in node.inputs if name)
    g.nodes = [node for node in g.nodes if node.name in needed]
    used = {node.weights for node in g.nodes}
    g.store = {key: weights for key, weights in g.store.items() if key in used}


def _rename(lo: Lowering, outputs: Sequence[tuple[str, Layout]]) -> None:
    """Call outputs what forward() calls them, where it returns a mapping."""
    for i, (title, _) in enumerate(outputs):
        old = lo.g.outputs[i]
        if not title or title.isdigit() or title in lo.g.values:
            continue
        lo.g.nodes = [
            node._replace(
                name=title if node.name == old else node.name,
                inputs=tuple(title if name == old else name for name in node.inputs),
            )
            for node in lo.g.nodes
        ]
        lo.g.values[title] = lo.g.values.pop(old)
        lo.g.outputs[i] = title
