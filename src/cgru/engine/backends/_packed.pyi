from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Float32
from ...spec.precision import Stored

PRECISIONS: dict[str, int]
OPERATION_LIMITS: dict[str, int]

def isa_built() -> list[str]: ...
def isa_available() -> list[str]: ...
def isa_in_use() -> str: ...
def has_operation(name: str) -> bool: ...

class Matrix:
    def __init__(self, precision: str, weight: Float32 | Stored, bias: Float32 | Stored | None) -> None: ...
    @property
    def units(self) -> int: ...
    @property
    def inner(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def stored(self) -> dict[str, Float32 | Stored]: ...

class Scan:
    def __init__(
        self,
        precision: str,
        cell: str,
        activation: int,
        recurrent_activation: int,
        hidden: int,
        emitted: int,
        arrays: dict[str, Float32 | Stored],
    ) -> None: ...
    @property
    def input(self) -> int: ...
    @property
    def lookup_width(self) -> int: ...
    def lookup(self, embedding: Float32) -> Float32: ...
    @property
    def nbytes(self) -> int: ...
    def stored(self) -> dict[str, Float32 | Stored]: ...

class Net:
    def __init__(self, nodes: list[dict[str, Any]]) -> None: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def ids(self) -> bool: ...
    def run(
        self,
        x: np.ndarray,
        y: Float32,
        state: Float32,
        lengths: NDArray[np.int64] | None,
        mask: NDArray[np.bool_] | None,
        mask_out: NDArray[np.bool_] | None,
        threads: int,
    ) -> None: ...

class GraphNet:
    def __init__(
        self,
        values: list[tuple[int, int, int]],
        inputs: int,
        nodes: list[dict[str, Any]],
        outputs: list[int],
        width: int,
    ) -> None: ...
    @property
    def inputs(self) -> int: ...
    @property
    def width(self) -> int: ...
    def run(
        self,
        inputs: Sequence[np.ndarray | None],
        outputs: Sequence[Float32],
        state: Float32,
        lengths: NDArray[np.int64] | None,
        steps: int,
        before: int,
        ended: bool,
        threads: int,
    ) -> None: ...

class Stepper:
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def _bind(self, net: Net | GraphNet, state: Float32) -> None: ...
    def _enter(self) -> None: ...
    def _leave(self) -> None: ...

class BatchStepper(Stepper):
    def step(self, x: Any, out: Any = None) -> Any: ...

class IndexedStepper(Stepper):
    def _name(self, owner: NDArray[np.int64], place: NDArray[np.int64], most: int) -> None: ...
    def _write(self, row: int, data: Float32) -> None: ...
    def _read(self, row: int) -> Float32: ...
    def step(self, sids: Any, x: Any, out: Any = None, *, threads: int | str | None = None) -> Any: ...

class RowSteps:
    rows: int
    def __init__(self, net: GraphNet) -> None: ...
    def take(self, given: list[np.ndarray | None], state: Float32) -> None: ...
    def move(self, state: Float32) -> None: ...
    def step(self, inputs: list[np.ndarray | None], outputs: list[np.ndarray], threads: int = 1) -> None: ...
    def tokens(
        self,
        fed: int,
        outputs: list[np.ndarray],
        token: NDArray[np.int64],
        chosen: NDArray[np.int64],
        total: NDArray[np.float64],
        over: NDArray[np.uint8],
        first: int,
        steps: int,
        least: int,
        stop: int,
        leave: int,
        probabilities: bool,
        draws: tuple[float, int, float, int] | None = None,
        which: NDArray[np.uint64] | None = None,
    ) -> int: ...
    def beam(
        self,
        beams: Beams,
        fed: int,
        outputs: list[np.ndarray],
        token: NDArray[np.int64],
        state: Float32,
        spare: Float32,
        least: int,
        probabilities: bool,
    ) -> bool: ...
    def forecast(
        self,
        fed: int,
        outputs: list[np.ndarray],
        frame: Float32,
        first: Float32,
        beside: Float32,
        made: Float32,
        head: str,
        scale: str,
        seed: int | None,
    ) -> tuple[int, int]: ...

class Scores:
    def __init__(
        self, scores: Float32, probabilities: bool, forbidden: int = -1, allowed: NDArray[np.bool_] | None = None
    ) -> None: ...
    def likeliest(self, token: NDArray[np.int64], score: NDArray[np.float64]) -> None: ...
    def draw(
        self,
        u: NDArray[np.float64],
        temperature: float,
        top_k: int,
        top_p: float,
        token: NDArray[np.int64],
        score: NDArray[np.float64],
    ) -> None: ...

class Beams:
    rows: int
    steps: int
    moved: bool
    parents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    def __init__(self, inputs: int, width: int, best: int, stop: int, divisor: NDArray[np.float64]) -> None: ...
    def step(self, scores: Scores) -> None: ...
    def path(self, step: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    def complete(self, i: int) -> list[tuple[float, int, int, int]]: ...

def uniforms(seed: int, streams: NDArray[np.uint64], index: int) -> NDArray[np.float64]: ...
def normal(u: NDArray[np.float64]) -> NDArray[np.float64]: ...
def top_of_product(matrix: Matrix, x: Float32, k: int) -> tuple[Float32, NDArray[np.int64]]: ...
