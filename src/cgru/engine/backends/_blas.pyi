import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

class ScanKernel:
    def __init__(
        self,
        cell: str,
        w_ih: Float32,
        w_hh: Float32 | None,
        w_hr: Float32 | None,
        bias: Float32,
        vectors: Float32 | None,
        gate: int,
        candidate: int,
    ) -> None: ...
    def __call__(
        self,
        x: Float32,
        state: list[Float32],
        emitted: Float32,
        valid: NDArray[np.bool_] | None,
        reverse: bool,
        repeat: bool,
        threads: int,
    ) -> Float32: ...

def cells() -> list[str]: ...
def dense(w: Float32, bias: Float32 | None, activation: int, x: Float32, threads: int) -> Float32: ...
def activate(activation: int, values: Float32, threads: int) -> None: ...
def product(w: Float32, x: Float32, y: Float32, by: int, repeats: int) -> None: ...
