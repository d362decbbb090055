"""What a name of TorchScript code stands for while it is followed: plain data itself, tensors without numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ....errors import UnsupportedError
from ..aten.program import Ref
from . import syntax


class DoesNotFit(UnsupportedError):
    """The code cannot run on inputs of these sizes: others may do."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the program: its name, its shape (None where no rule tells it) and its kind, ``f``, ``i`` or ``b``.

    ``number`` is what a tensor without axes holds where the code made it of a size; ``maker`` the operator it is of.
    """

    name: str
    shape: tuple[int, ...] | None
    kind: str = "f"
    number: int | float | None = None
    maker: str = ""

    @property
    def ref(self) -> Ref:
        return Ref(self.name)

    @property
    def sizes(self) -> tuple[int, ...]:
        if self.shape is None:
            raise UnsupportedError(f"torch.{self.maker}: cgru does not run this operator, and what follows hangs on it")
        return self.shape


@dataclass(eq=False)
class Object:
    """An instance of a class of the archive. ``own``: it is of the file, so that changing it would outlive a call."""

    cls: str
    path: str
    attributes: dict[str, Any]
    own: bool = True


@dataclass(frozen=True)
class Named:
    """A NamedTuple."""

    fields: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Function:
    name: str
    code: syntax.Def


@dataclass(frozen=True)
class Method:
    of: Object
    code: syntax.Def
    name: str


@dataclass(frozen=True)
class Operator:
    """``torch.relu``, ``ops.prim.device``: its namespace and its name."""

    space: str
    name: str


@dataclass(frozen=True)
class ClassName:
    name: str


@dataclass(frozen=True)
class Word:
    """A device, layout or type, which no number hangs on."""

    text: str


@dataclass(eq=False)
class Uninitialized:
    """A value that another branch would have given."""

    parts: list[Any] = field(default_factory=list)
