"""A live torch module whose forward() is followed: traced, made a network, and run beside it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..engine.model import Model
from ..engine.verification import TOLERANCE, Difference, beyond, difference
from ..errors import CgruError, UnsupportedError
from ..formats.readers.aten.network import Layout, Traced, traced
from ..formats.readers.aten.program import Program
from ..layers.conventions import plain
from .torch_export import Untraceable, exported
from .torch_run import Runnable, evaluating, kind_of
from .verification import BATCH, SCALES, STEPS

#: Steps of an example made here for a module that looks at several at once.
_WIDE_STEPS = 61
#: By how many rows and steps the second input differs: what forward() computes from sizes shows.
_MORE_ROWS, _MORE_STEPS = 1, 4


class _Given(NamedTuple):
    """What a module is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def followed(module: Any, example: Any, *, verify: bool, backend: str | None) -> Model:
    """The network that ``module`` computes in evaluation mode, as its forward() says.

    Raises :class:`Untraceable` where torch.export cannot follow forward(), :class:`UnsupportedError` naming the
    operator and the source line that cgru does not run, and where module and network differ.
    """
    torch: Any = sys.modules["torch"]
    if isinstance(module, torch.jit.ScriptModule):
        raise Untraceable("torch.export cannot follow a scripted module")
    for path, part in module.named_modules():
        if getattr(part, "max_norm", None) is not None:
            raise UnsupportedError(f"{path}: an Embedding with max_norm changes its weights; set max_norm to None")
    with evaluating(module) as ready:
        given, program, found = _traced(ready, example)
        net = Model(found.made, backend=backend)
        net.noting(*(note for note in found.notes if note not in net.notes))
        if not verify:
            return net.noting("not verified: from_torch was told verify=False")
        return net.noting(_verified(net, ready, given, program, found, example is not None))


def _traced(ready: Runnable, example: Any) -> tuple[_Given, Program, Traced]:
    if example is not None:
        given = _arguments(ready, example)
        _check_runs(ready, given)
        program = exported(ready.module, given.args, given.kwargs)
        return given, program, traced(program)
    first: CgruError | None = None
    for given in _examples(ready):
        try:
            ready.module(*given.args, **given.kwargs)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            first = first or CgruError(
                f"the original cannot be run on an input made for it, of shape {tuple(given.args[0].shape)}: "
                f"{type(error).__name__}: {text}; give one by example="
            )
            continue
        try:
            program = exported(ready.module, given.args, given.kwargs)
            return given, program, traced(program)
        except Untraceable:
            raise
        except UnsupportedError as error:
            first = error if first is None or not isinstance(first, UnsupportedError) else first
    raise first or UnsupportedError("nothing in it says what its input is; give one by example=")


def _arguments(ready: Runnable, example: Any) -> _Given:
    if isinstance(example, Mapping):
        return _Given((), {str(key): _tensor(ready, value) for key, value in example.items()})
    parts = example if isinstance(example, tuple) else (example,)
    return _Given(tuple(_tensor(ready, part) for part in parts), {})


def _tensor(ready: Runnable, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_tensor(ready, part) for part in value)
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    array = np.asarray(plain(value))
    if array.dtype.kind not in "fiub":
        raise CgruError(f"example: expected tensors of numbers, found {array.dtype}")
    return ready.tensor(array)


def _check_runs(ready: Runnable, given: _Given) -> None:
    try:
        ready.module(*given.args, **given.kwargs)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise CgruError(f"example: the module cannot be run on it: {type(error).__name__}: {text}") from error


def _examples(ready: Runnable) -> Iterator[_Given]:
    """Inputs that the module may take, told by its parts."""
    parameters = list(inspect.signature(ready.module.forward).parameters.values())
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(needed) > 1:
        raise CgruError(
            f"forward() takes {len(needed)} inputs, {', '.join(p.name for p in needed)}: give an example of them, "
            "example=(a, b)"
        )
    rng, seen = np.random.default_rng(20_261), set()
    parts = [(kind_of(part), part) for part in ready.module.modules()]
    wide = any(kind.startswith(("Conv", "MaxPool", "AvgPool")) for kind, _ in parts)
    steps = _WIDE_STEPS if wide else STEPS
    for kind, part in parts:
        shape: tuple[int, ...]
        if kind == "Embedding":
            ids = rng.integers(0, part.num_embeddings, (BATCH, steps))
            yield _Given((ready.tensor(ids),), {})
            continue
        if kind == "Conv1d":
            shapes = [(BATCH, part.in_channels, steps), (BATCH, steps, part.in_channels)]
        elif isinstance(getattr(part, "in_features", None), int):
            shapes = [(BATCH, steps, part.in_features)]
        elif hasattr(part, "input_size") and isinstance(part.input_size, int):
            shapes = [(BATCH, steps, part.input_size)]
        else:
            continue
        for shape in shapes:
            if shape not in seen:
                seen.add(shape)
                yield _Given((ready.tensor(rng.standard_normal(shape).astype(np.float32)),), {})


# ---- the module beside the network --------------------------------------------------------------------------


def _verified(net: Model, ready: Runnable, given: _Given, program: Program, found: Traced, from_caller: bool) -> str:
    """Run both on inputs of two sizes; what the network shall say about it."""
    torch: Any = sys.modules["torch"]
    flatten, unflatten = torch.utils._pytree.tree_flatten, torch.utils._pytree.tree_unflatten
    leaves, spec = flatten((given.args, given.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    base = {
        argument.name: np.asarray(plain(leaves[place])) for argument, place in zip(program.inputs, places, strict=True)
    }
    ours = _in_our_order(base, found.inputs)

    def foreign(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        changed = list(leaves)
        for argument, place in zip(program.inputs, places, strict=True):
            layout = found.inputs[argument.name]
            value = values[argument.name]
            changed[place] = ready.tensor(np.ascontiguousarray(value if layout is None else layout.theirs(value)))
        args, kwargs = unflatten(changed, spec)
        results, _ = flatten(ready.module(*args, **kwargs))
        rows = len(next(iter(values.values())))
        return [
            layout.ours(np.asarray(plain(results[position])), rows)
            for position, (_, layout) in zip(found.positions, found.outputs, strict=True)
        ]

    beside = _Beside(net, foreign, [name for name, layout in found.inputs.items() if layout is None])
    beside.compare(ours, "")
    if not from_caller:
        for scale in SCALES[1:]:
            scaled = {name: v * np.float32(scale) if v.dtype.kind == "f" else v for name, v in ours.items()}
            beside.compare(scaled, "")
    other = {name: _resized(array, found.inputs[name]) for name, array in ours.items()}
    aside = "; the module runs on no other numbers of rows and steps"
    for values in _other_lengths(other, found.inputs):
        try:
            foreign(values)
        except Exception:
            continue
        beside.compare(values, " on other numbers of rows and steps than the example's")
        aside = ""
        break
    what = "the example" if from_caller else f"{len(SCALES)} random inputs"
    return f"verified against the module on {what}: {beside.worst}{aside}"


def _other_lengths(
    values: Mapping[str, np.ndarray], layouts: Mapping[str, Layout | None]
) -> Iterator[Mapping[str, np.ndarray]]:
    """The same with rows of other lengths, in some order first, then the longest first, as some modules need them."""
    counts = [name for name, layout in layouts.items() if layout is None]
    if not counts:
        yield values
        return
    steps = max(
        array.shape[1] for name, array in values.items() if (layout := layouts[name]) is not None and "T" in layout.axes
    )
    for turned in (1, 0):
        made = dict(values)
        for name in counts:
            down = np.linspace(steps, 1, len(values[name])).astype(values[name].dtype)
            made[name] = np.roll(down, turned)
        yield made


def _in_our_order(values: Mapping[str, np.ndarray], layouts: Mapping[str, Layout | None]) -> dict[str, np.ndarray]:
    made = {}
    for name, array in values.items():
        layout = layouts[name]
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        made[name] = array if layout is None else layout.ours(array, 1)
    return made


def _resized(array: np.ndarray, layout: Layout | None) -> np.ndarray:
    """More rows, and more steps where there are any, of the same numbers in another order."""
    array = np.concatenate([array, array[:_MORE_ROWS]])
    if layout is not None and "B" not in layout.axes:
        array = array[:1]
    if layout is None or "T" not in layout.axes:
        return array
    back = array[:, ::-1]
    while back.shape[1] < _MORE_STEPS:
        back = np.concatenate([back, back], axis=1)
    return np.concatenate([array, back[:, :_MORE_STEPS]], axis=1)


class _Beside:
    """Compares a network with what the module gives; ``lengths`` names the inputs that count the rows' frames."""

    def __init__(
        self, net: Model, foreign: Callable[[Mapping[str, np.ndarray]], list[np.ndarray]], lengths: Sequence[str]
    ) -> None:
        self.net, self.foreign, self.lengths = net, foreign, lengths
        self.worst: Difference | None = None

    def compare(self, inputs: Mapping[str, np.ndarray], on: str) -> None:
        given = {name: array for name, array in inputs.items() if name not in self.lengths}
        counts = inputs[self.lengths[0]] if self.lengths else None
        got: Any = self.net(next(iter(given.values())) if len(given) == 1 else given, lengths=counts)
        parts = list(got.values()) if isinstance(got, Mapping) else [got]
        for place, (mine, right) in enumerate(zip(parts, self.foreign(inputs), strict=True)):
            if mine.shape != right.shape:
                raise UnsupportedError(
                    f"module and network disagree{on}: it gives shape {right.shape}, cgru {mine.shape}"
                )
            if counts is not None:
                mine, right = self._within(place, mine, right, counts)
            found = difference(mine, right)
            if not found.within(TOLERANCE):
                raise UnsupportedError(f"module and network disagree{on}: {beyond(found, TOLERANCE)}")
            if self.worst is None or found.relative_rms > self.worst.relative_rms:
                self.worst = found

    def _within(self, place: int, mine: np.ndarray, right: np.ndarray, counts: np.ndarray) -> tuple[Any, Any]:
        """The frames that count: behind a row's length cgru gives zeros, a module whatever it computes of padding."""
        clock = self.net.graph.values[self.net.graph.outputs[place]].clock
        if clock is None:
            return mine, right
        real = np.arange(mine.shape[1]) < np.array([clock.count(int(n)) for n in counts])[:, None]
        return mine[real], right[real]
