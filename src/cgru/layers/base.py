"""What every layer is: a name, a specification that fits in JSON, and arrays. Immutable once made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..arrays import Float32, optional_text
from ..errors import CgruError, FormatError, UnsupportedError
from ..spec.precision import Stored, check, is_matrix, widen
from ..weights import Weights


def called(name: Any, kind: str) -> str:
    """What messages call a layer: its name, or its kind where it has none."""
    return optional_text(name, "name") or kind


class Layer:
    """A part of a network: specification and weights, no state and no buffers.

    ``input_size`` and ``output_size`` are the numbers of features; None means "any" and "as many as came in".
    ``precision`` is how the matrices are held: "float32", "int8", "int8x16", "bf16" or "fp16".
    """

    kind: ClassVar[str]
    #: Whether the layer takes integer ids rather than features.
    takes_ids: ClassVar[bool] = False
    #: How many axes the arrays have that reduced precision holds smaller.
    matrix_axes: ClassVar[int] = 2

    #: What runs the layer by itself, once that was asked for.
    _alone: Any = None

    name: str
    input_size: int | None
    output_size: int | None

    def __init__(self, name: str | None, arrays: Mapping[str, Float32]) -> None:
        self.name = called(name, self.kind)
        #: The weights of each part that runs by itself (a direction of a stack), by what follows their names.
        self.weights = self._parts(arrays, "float32")

    def _parts(self, arrays: Mapping[str, Float32 | Stored], precision: str) -> dict[str, Weights]:
        """``arrays`` by part; most layers are one part."""
        return {"": Weights(arrays, {key for key in arrays if is_matrix(key)}, precision)}

    @property
    def precision(self) -> str:
        """What its matrices are held in: "float32", or a precision of :meth:`Model.quantize`."""
        return next((part.precision for part in self.weights.values()), "float32")

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(part.parameters for part in self.weights.values())

    def arrays(self) -> dict[str, Float32]:
        """The weights by canonical name as float32, whatever precision they are held in."""
        return {key + suffix: array for suffix, part in self.weights.items() for key, array in part.arrays().items()}

    def stored(self) -> dict[str, Float32 | Stored]:
        """The weights by canonical name as they are held (rebuilt from the packed form where that is the only copy)."""
        return {key + suffix: array for suffix, part in self.weights.items() for key, array in part.stored().items()}

    def op_options(self) -> dict[str, Any]:
        """The options of the operation that the layer is, where it is a single one."""
        return {}

    def quantized(self, precision: str) -> Self:
        """The same layer with its matrices in another precision; itself where they are in that one already.

        Biases and other vectors stay float32. Raises :class:`~cgru.errors.CgruError` where the layer is reduced
        already, has no matrix, or has weights that the precision cannot hold.
        """
        if check(precision, f"{self.name}: precision") == self.precision:
            return self
        if self.precision != "float32":
            raise CgruError(
                f"{self.name}: its weights are {self.precision} already; quantize the float32 network instead"
            )
        if not self.reducible:
            raise CgruError(f"{self.name}: a layer of kind {self.kind} has no weights to hold as {precision}")
        twin = self.renamed(self.name)
        twin.weights = {suffix: part.reduced(precision, self.name, suffix) for suffix, part in self.weights.items()}
        return twin

    @property
    def reducible(self) -> bool:
        """Whether there is a matrix that reduced precision could make smaller."""
        return self.parameters > 0

    def holding(self, precision: str, stored: Mapping[str, Float32 | Stored]) -> Self:
        """The same layer with these weights, which are those of :meth:`stored` in a precision, instead of its own."""
        twin = self.renamed(self.name)
        twin.weights = twin._parts(stored, precision)
        return twin

    def __call__(
        self,
        x: Any,
        lengths: Any = None,
        mask: Any = None,
        *,
        threads: int | str | None = None,
        backend: str | None = None,
    ) -> Any:
        """Run the layer by itself, as a network of nothing else: (B, T, I) → (B, T, O), or (T, I) → (T, O); ids (B, T)
        where it takes ids. The arguments are those of :meth:`cgru.Model.run`.
        """
        return (self._alone or self._made_alone())(x, lengths, mask, threads, backend)

    def _made_alone(self) -> Any:
        from ..engine.alone import alone  # what runs networks stands above the layers

        self._alone = alone(self)
        return self._alone

    def options(self) -> dict[str, Any]:
        """The specification beside the arrays: JSON values only."""
        return {}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """The inverse of :meth:`options` and :meth:`arrays`; raises :class:`FormatError` on what does not fit."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes the weights take in memory as they are held now."""
        return sum(part.nbytes for part in self.weights.values())

    @property
    def title(self) -> str:
        """What kind of layer it is, for ``print(net)``."""
        return type(self).__name__

    def describe(self) -> str:
        """Sizes and switches in a few words, for ``print(net)``."""
        return f"{self.input_size} → {self.output_size}"

    def renamed(self, name: str) -> Self:
        """The same layer, sharing its weights, under another name."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _alone=None)
        twin.name = name
        return twin

    def __copy__(self) -> Self:
        return self.renamed(self.name)

    def __deepcopy__(self, memo: Any) -> Self:
        return self.renamed(self.name)  # immutable, so there is nothing to have twice

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.kind, self.name, self.options(), self.precision, self.stored())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.describe()})"


def _restored(
    kind: str, name: str, options: Mapping[str, Any], precision: str, stored: Mapping[str, Float32 | Stored]
) -> Layer:
    """A layer from what it is pickled as: specification, and weights as they are held."""
    from . import LAYERS

    if kind not in LAYERS:
        raise UnsupportedError(f"{name}: a layer of kind {kind!r}, which this version of cgru does not have")
    wide = {key: widen(held, precision) if isinstance(held, Stored) else held for key, held in stored.items()}
    layer = LAYERS[kind].from_parts(name, options, wide)
    if precision == "float32":
        return layer
    return layer.holding(precision, stored)


def take(options: Mapping[str, Any], key: str, types: type | tuple[type, ...], where: str, default: Any = ...) -> Any:
    """``options[key]`` if it is of the type wanted; used where a specification comes from a file."""
    if key not in options:
        if default is ...:
            raise FormatError(f"{where}: the specification lacks {key!r}")
        return default
    value = options[key]
    if not isinstance(value, types) or (isinstance(value, bool) and types is int):
        raise FormatError(f"{where}: {key!r} is {value!r}, which is not of the kind expected")
    return value


def only(options: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse a specification that says something unknown: nothing in a file is silently left out."""
    for key in options:
        if key not in known:
            raise FormatError(f"{where}: the specification says {key!r}, which this version does not know")
