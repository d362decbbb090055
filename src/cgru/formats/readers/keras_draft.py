"""A Keras network on its way to a graph: what its tensors are here, and the nodes that its layers become.

A Keras tensor (B, T, …) whose second axis is time is a value with frames; any other one, (B, …) or a time axis that a
layer took apart, has feature axes alone. Masks are values of their own that travel beside the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...builder import Graph
from ...errors import CgruError, FormatError, UnsupportedError
from ...layers import Activation, Dense, Embedding, Layer, Masking
from ...spec.values import Value
from ...weights import Weights
from .keras_settings import Activated

#: Calls of layers in a model, those of the models inside it counted each time.
MAX_CALLS = 20_000
#: Numbers that a node lists: places along an axis.
MAX_LISTED = 1 << 18


@dataclass(frozen=True)
class Tensor:
    """A Keras tensor: the value ``name`` of the graph.

    ``timed``: Keras' second axis is the value's frames. Inside TimeDistributed it is not, whatever clock the value has.
    """

    name: str
    timed: bool
    mask: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """The product of every step of ``query`` with every step of ``key``, (B, T, S), where their numbers are open.

    It is no value of the graph: behind a softmax over S (``weighs``) and a product with a sequence of S steps it is
    attention, and nothing else takes it.
    """

    query: Tensor
    key: Tensor
    weighs: bool = False


class SameTime(Exception):
    """Two inputs that were thought to have a time axis each meet in one operation: they share theirs."""

    def __init__(self, first: str, second: str) -> None:
        self.roots = first, second


@dataclass
class Step:
    """What a Keras layer becomes: ``layers`` of cgru's own where that is all it is, else ``emit`` adds its nodes.

    ``emit(draft, args, kwargs)`` gets the arguments of one call and gives a tensor, or a list of them.
    """

    layers: list[Layer] | None = None
    emit: Callable[[Draft, list[Any], dict[str, Any]], Any] | None = None
    #: The layer is Keras' Softmax class, which applies a mask that reaches it.
    is_softmax: bool = False
    #: The layers of a model inside a model.
    model: Any = None

    def run(self, d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if self.emit is not None:
            return self.emit(d, args, kwargs)
        if len(args) == 1 and isinstance(args[0], Scores):
            names = [layer.activation if isinstance(layer, Activation) else "" for layer in self.layers or ()]
            if not names:  # a Dropout
                return args[0]
            if names == ["softmax"] and not args[0].weighs:
                return replace(args[0], weighs=True)
        x = d.only(args, kwargs)
        for layer in self.layers or ():
            if self.is_softmax and x.mask is not None:
                raise UnsupportedError(
                    f"layer {layer.name!r} (Softmax): applies the mask that reaches it; use Dense(activation='softmax')"
                )
            x = d.plain_layer(layer, x)
        return x


@dataclass
class Draft:
    """The graph being built. ``roots`` says which clock each timed input follows, ``frames`` how many it always has."""

    roots: Mapping[str, str] = field(default_factory=dict)
    g: Graph = field(default_factory=Graph)
    frames: dict[str, int | None] = field(default_factory=dict)
    #: The layer whose nodes are being added, and the models around it.
    layer: str = ""
    where: str = ""
    calls: int = 0
    #: Whether an attention has run that takes the mask off its inputs, so that a layer behind it may find none.
    unmasked: bool = False
    _names: dict[str, int] = field(default_factory=dict)
    _keys: dict[int, str] = field(default_factory=dict)
    _held: list[Any] = field(default_factory=list)

    # ---- what a tensor is -------------------------------------------------------------------------------------

    def value(self, x: Tensor) -> Value:
        return self.g.values[x.name]

    def features(self, x: Tensor) -> tuple[int, ...]:
        return self.value(x).features

    def count(self, x: Tensor) -> int | None:
        """The frames that a value always has; None where an input leaves them open."""
        clock = self.value(x).clock
        known = None if clock is None else self.frames.get(clock.root)
        return None if known is None or clock is None else clock.count(known)

    def shape(self, x: Tensor) -> tuple[int | None, ...]:
        """Keras' axes behind the batch."""
        return (self.count(x), *self.features(x)) if x.timed else self.features(x)

    def refuse(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{self.where}: {what}")

    def tensor(self, given: Any) -> Tensor:
        if isinstance(given, Scores):
            raise self.refuse(
                "takes the products of every step with every other; where their number is open, cgru follows them "
                "through a softmax to a Dot with the sequence alone: save the model with the number in "
                "Input(shape=(steps, features))"
            )
        if not isinstance(given, Tensor):
            raise self.refuse(f"is called with {str(given)[:80]}, which cgru does not take from files")
        return given

    def only(self, args: Sequence[Any], kwargs: Mapping[str, Any], *known: str) -> Tensor:
        """The one tensor a layer is called with; its mask is the one that the call says, where it says one."""
        for key in kwargs:
            if key not in ("mask", "training", *known):
                raise self.refuse(f"is called with {key[:60]}=, which cgru does not take from files")
        if kwargs.get("training"):
            raise self.refuse("is called with training=True")
        if len(args) == 1 and isinstance(args[0], list) and len(args[0]) == 1:
            args = args[0]
        if len(args) != 1:
            raise self.refuse(f"is called with {len(args)} inputs, expected one")
        x = self.tensor(args[0])
        mask = kwargs.get("mask")
        return x if mask is None else replace(x, mask=self.mask(mask))

    def mask(self, given: Any) -> Tensor | None:
        """A mask that a call names, as a value; None where every frame counts."""
        if isinstance(given, Everywhere):
            return None
        if not isinstance(given, Tensor) or self.value(given).dtype != "bool":
            raise self.refuse("its mask is not that of a Masking or Embedding layer")
        return given

    # ---- adding nodes -----------------------------------------------------------------------------------------

    def node(
        self,
        op: str,
        *inputs: Tensor | None,
        part: str = "",
        weights: Mapping[str, Any] | Weights | None = None,
        timed: bool | None = None,
        apart: bool = False,
        **options: Any,
    ) -> Tensor:
        """One operation. ``apart``: its inputs may follow different clocks."""
        present = [x for x in inputs if x is not None]
        if not apart:
            self.together(*present)
        key: Any = weights
        if weights is not None and id(weights) in self._keys:
            key = self._keys[id(weights)]
        name = self.g.node(
            op,
            *(x.name if x is not None else "" for x in inputs),
            name=self._name(f"{self.layer}.{part}" if part else self.layer),
            layer=self.layer,
            weights=key,
            **options,
        )
        if weights is not None:
            self._keys.setdefault(id(weights), name)
            self._held.append(weights)  # an id stays that of its object while somebody holds it
        if timed is None:
            timed = any(x.timed for x in present) and self.g.values[name].clock is not None
        return Tensor(name, timed)

    def _name(self, wanted: str) -> str:
        """A name that no value has; those of a layer that is called again are numbered."""
        count = self._names[wanted] = self._names.get(wanted, 0) + 1
        return wanted if count == 1 else f"{wanted}_{count}"

    def count_call(self) -> None:
        """Models inside models may call each other many times over: what a small file can ask for is bounded."""
        self.calls += 1
        if self.calls > MAX_CALLS or len(self.g.nodes) > MAX_CALLS:
            raise self.refuse(f"the model calls its layers more than {MAX_CALLS} times")

    def listed(self, count: int) -> int:
        """``count`` numbers that a node will list, if so many may be."""
        if count > MAX_LISTED:
            raise self.refuse(f"lists {count} places, more than the {MAX_LISTED} that cgru takes")
        return count

    def together(self, *inputs: Tensor) -> None:
        """Raise :class:`SameTime` where values that meet follow two inputs."""
        roots = {clock.root for x in inputs if (clock := self.value(x).clock) is not None}
        if len(roots) > 1:
            first, second, *_ = sorted(roots)
            raise SameTime(first, second)

    def constant(self, numbers: Any) -> Tensor:
        array = np.atleast_1d(np.asarray(numbers, np.float32))
        return self.node("constant", part="constant", weights={"value": array}, features=array.shape)

    def reshaped(self, x: Tensor, *features: int) -> Tensor:
        if features == self.features(x):
            return x
        return replace(self.node("reshape", x, part="shape", features=features), mask=x.mask)

    def activated(self, x: Tensor, activation: Activated, part: str = "") -> Tensor:
        if activation.name == "linear":
            return x
        last = len(self.features(x)) - 1
        if activation.name == "exp":
            y = self.node("unary", x, part=part, kind="exp")
        elif activation.name == "log_softmax":
            y = self.node("softmax", x, part=part, axes=(last,), log=True)
        elif activation.alpha is None:
            y = self.node("activation", x, part=part, activation=activation.name)
        else:
            y = self.node("activation", x, part=part, activation=activation.name, alpha=activation.alpha)
        return replace(y, mask=x.mask)

    def folded(self, x: Tensor, why: str) -> Tensor:
        """The frames of a sequence of known length as a feature axis."""
        if not x.timed:
            return x
        count = self.count(x)
        if count is None:
            raise self.refuse(
                f"{why} needs a sequence of known length, and the model's input leaves the number of steps open; "
                "save it with the number in Input(shape=(steps, features))"
            )
        if count < 1:
            raise self.refuse(f"{why} gets a sequence without a frame")
        return self.node("fold_time", x, part="folded", frames=count, timed=False)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, weights: Mapping[str, Any] | None, kind: str, causal: bool,
        factor: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Attention of one sequence to another, which may have a time axis of its own."""
        self.together(key, value)
        masks = [value.mask] if value.mask is not None else []
        y = self.node(
            "attend", query, key, value, *masks, part="attend", apart=True,
            weights=weights, kind=kind, causal=causal, factor=factor,
        )  # fmt: skip
        return replace(y, timed=True)

    def plain_layer(self, layer: Layer, x: Tensor) -> Tensor:
        """One of cgru's own layers on a tensor."""
        if isinstance(layer, Embedding):
            if self.value(x).dtype != "int64":
                raise self.refuse("looks up numbers that are no ids of an input")
            if layer.mask_zero and self.features(x):
                raise self.refuse("has mask_zero for several ids a step, whose mask is of parts of a step")
            y = self.node("embedding", x, weights=layer.weights[""], **layer.op_options())
            return replace(y, mask=self.seen(x, 0.0) if layer.mask_zero else None)
        if self.value(x).dtype != "float32":
            raise self.refuse("works on the ids of an input, which only an Embedding does")
        if isinstance(layer, Dense):
            if not self.features(x):
                raise self.refuse("its input has no feature axis")
            y = self.node("dense", x, weights=layer.weights[""], **layer.op_options())
        elif isinstance(layer, Activation):
            y = self.node("activation", x, activation=layer.activation)
        elif isinstance(layer, Masking):
            if not x.timed:
                raise self.refuse("masks the steps of something without a time axis")
            mask = self.seen(x, layer.mask_value)
            return replace(self.node("apply_mask", x, mask), mask=mask)
        else:
            raise CgruError(f"{self.where}: a layer of kind {layer.kind} has no operations")
        return replace(y, mask=x.mask)

    def seen(self, x: Tensor, value: float) -> Tensor | None:
        """The mask of the frames that hold another number than ``value``."""
        if not x.timed:
            return None
        return self.node("mask_of", x, part="mask", value=float(value))

    # ---- inputs -----------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[Any], ids: bool, where: str) -> Tensor:
        """An input of Keras' axes behind the batch: a sequence where there are two or more, or one of ids."""
        timed = len(shape) > 1 or (ids and len(shape) == 1)
        sizes = shape[1:] if timed else shape
        if any(type(size) is not int or size < 1 for size in sizes):
            raise UnsupportedError(f"{where}: its shape (batch, {', '.join(map(str, shape))}) leaves features open")
        if ids and len(sizes) > 1:
            raise UnsupportedError(f"{where}: ids of shape (batch, {', '.join(map(str, shape))}) are not run")
        if not ids and not sizes:
            raise UnsupportedError(f"{where}: an input of shape (batch,) has no features")
        steps = shape[0] if timed else None
        if steps is not None and (type(steps) is not int or steps < 1):
            raise FormatError(f"{where}: its shape is {str(shape)[:80]}")
        root = self.roots.get(name, "")
        if timed:
            if self.frames.setdefault(root, steps) != steps:
                self.frames[root] = None
            time: bool | str = root or True
        else:
            time = False
        self.g.input(tuple(sizes), name=name, dtype="int64" if ids else "float32", time=time)
        return Tensor(name, timed)


class Everywhere:
    """A mask that is True at every frame, or, ``nowhere``, at none: what Keras makes of inputs without one."""

    def __init__(self, nowhere: bool = False) -> None:
        self.nowhere = nowhere


@dataclass(frozen=True)
class Differs:
    """``x != value`` number by number, before anything says along which axis."""

    x: Tensor
    value: float
