"""What is measured: cells (sizes of a network and its input), their weights, inputs and exact answers.

Everything here is independent of cgru and of its peers: numpy alone. The answers come from a GRU and an LSTM
written out in float64, so that no implementation is judged by itself or by a relative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEED = 20240611
GATES = {"gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Cell:
    """One size of work: B rows of T steps, I inputs, H hidden units, L layers, D directions, of GRU or LSTM."""

    B: int
    T: int
    I: int  # noqa: E741  (the glossary's letter for the input size)
    H: int
    L: int = 1
    D: int = 1
    unit: str = "gru"

    @classmethod
    def parse(cls, text: str, unit: str = "gru") -> Cell:
        """Read `B,T,I,H[,L[,D]]`; raise ValueError for anything else."""
        sizes = [int(part) for part in text.split(",")]
        if not 4 <= len(sizes) <= 6 or min(sizes) < 1 or (len(sizes) == 6 and sizes[5] > 2):
            raise ValueError(f"a cell is B,T,I,H[,L[,D]] with positive sizes and D of 1 or 2, not {text!r}")
        B, T, I, H, *more = sizes  # noqa: E741
        L, D = (*more, 1, 1)[:2]
        return cls(B, T, I, H, L, D, unit)

    def __str__(self) -> str:
        text = f"{'LSTM ' if self.unit == 'lstm' else ''}B={self.B} T={self.T} H={self.H}"
        if self.I != self.H:
            text += f" I={self.I}"
        if self.L > 1:
            text += f" L={self.L}"
        return text + (" D=2" if self.D == 2 else "")

    @property
    def gates(self) -> int:
        """Rows of a weight matrix over H."""
        return GATES[self.unit]

    def layer_inputs(self) -> list[int]:
        """Input width of each layer: I for the first, D·H for the others."""
        return [self.I if layer == 0 else self.D * self.H for layer in range(self.L)]

    @property
    def flop(self) -> int:
        """Floating-point operations of the matrix products of one call (an FMA counts as two)."""
        weights = sum(self.D * self.gates * self.H * (width + self.H) for width in self.layer_inputs())
        return 2 * self.B * self.T * weights


def grid(name: str) -> list[Cell]:
    """The named set of cells: `table` is the full comparison, `small` a quick look, `odd` awkward sizes."""
    if name == "table":
        cells = [Cell(B, 100, H, H) for B in (1, 8, 64) for H in (32, 64, 128, 256, 512, 1024)]
        return [*cells, Cell(100, 1000, 10, 128, 2, 2), Cell(1, 1000, 400, 400, 2)]
    if name == "small":
        single = [Cell(1, 100, H, H) for H in (32, 128, 512)]
        return [*single, Cell(8, 100, 256, 256), Cell(64, 100, 256, 256)]
    if name == "odd":  # each odd size is followed by the next full tile, to compare throughput with
        return [Cell(100, 100, width, H) for H in (154, 160, 250, 256) for width in (10, H)]
    if name == "step":
        return [Cell(1, 1, H, H) for H in (32, 64, 128, 256, 512, 1024)]
    raise ValueError(f"no grid is called {name!r}")


def make_tensors(cell: Cell) -> dict[str, np.ndarray]:
    """Weights under PyTorch's names, float32, uniform in ±1/√H: what `torch.nn.GRU` and `nn.LSTM` start from."""
    rng = np.random.default_rng([SEED, cell.I, cell.H, cell.L, cell.D])
    bound = 1 / np.sqrt(cell.H)
    tensors = {}
    for layer, width in enumerate(cell.layer_inputs()):
        for direction in range(cell.D):
            suffix = f"l{layer}" + ("_reverse" if direction else "")
            shapes = {
                "weight_ih": (cell.gates * cell.H, width),
                "weight_hh": (cell.gates * cell.H, cell.H),
                "bias_ih": (cell.gates * cell.H,),
                "bias_hh": (cell.gates * cell.H,),
            }
            for name, shape in shapes.items():
                tensors[f"{name}_{suffix}"] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return tensors


def make_inputs(cell: Cell, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """`count` different inputs (B, T, I) from N(0, 1), and one non-zero h0 (L·D, B, H); float32."""
    rng = np.random.default_rng([SEED, cell.B, cell.T, cell.I, cell.H])
    xs = [rng.standard_normal((cell.B, cell.T, cell.I), dtype=np.float32) for _ in range(count)]
    return xs, rng.uniform(-0.5, 0.5, (cell.L * cell.D, cell.B, cell.H)).astype(np.float32)


def make_c0(cell: Cell) -> np.ndarray:
    """A non-zero initial memory of an LSTM (L·D, B, H), unlike h0 and outside ±1; float32."""
    rng = np.random.default_rng([SEED, cell.B, cell.T, cell.I, cell.H, 4])
    return rng.uniform(-1.5, 1.5, (cell.L * cell.D, cell.B, cell.H)).astype(np.float32)


def _sigmoid(a: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * a)


def exact(
    cell: Cell,
    tensors: dict[str, np.ndarray],
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray | None = None,
    reset: str = "after",
) -> tuple[np.ndarray, ...]:
    """The network in float64: outputs (B, T, D·H) and final h (L·D, B, H), for an LSTM final c as well.

    GRU, gates in PyTorch's order r, z, n:
        reset="after":  n = tanh(W_n x + b_in + r ⊙ (R_n h + b_hn))
        reset="before": n = tanh(W_n x + b_in + R_n (r ⊙ h) + b_hn)
        and in both h' = z ⊙ h + (1 − z) ⊙ n
    LSTM, gates in PyTorch's order i, f, g, o:
        c' = f ⊙ c + i ⊙ g, h' = o ⊙ tanh(c'), g with tanh, the others with σ
    """
    H, lstm = cell.H, cell.unit == "lstm"
    sequence = x.astype(np.float64)
    h_finals, c_finals = [], []
    for layer in range(cell.L):
        sides = []
        for direction in range(cell.D):
            suffix = f"l{layer}" + ("_reverse" if direction else "")
            w_ih, w_hh, b_ih, b_hh = (
                tensors[f"{name}_{suffix}"].astype(np.float64)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            projected = sequence @ w_ih.T + b_ih
            h = h0[layer * cell.D + direction].astype(np.float64)
            c = np.zeros_like(h) if c0 is None else c0[layer * cell.D + direction].astype(np.float64)
            out = np.empty((cell.B, cell.T, H))
            for t in range(cell.T)[:: -1 if direction else 1]:
                p = projected[:, t]
                if lstm:
                    i, f, g, o = np.split(p + h @ w_hh.T + b_hh, 4, axis=1)
                    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
                    h = _sigmoid(o) * np.tanh(c)
                    out[:, t] = h
                    continue
                rz = _sigmoid(p[:, : 2 * H] + h @ w_hh[: 2 * H].T + b_hh[: 2 * H])
                r, z = rz[:, :H], rz[:, H:]
                if reset == "after":
                    n = np.tanh(p[:, 2 * H :] + r * (h @ w_hh[2 * H :].T + b_hh[2 * H :]))
                else:
                    n = np.tanh(p[:, 2 * H :] + (r * h) @ w_hh[2 * H :].T + b_hh[2 * H :])
                h = z * h + (1 - z) * n
                out[:, t] = h
            sides.append(out)
            h_finals.append(h)
            c_finals.append(c)
        sequence = sides[0] if cell.D == 1 else np.concatenate(sides, axis=2)
    states = (np.stack(h_finals), np.stack(c_finals))
    return (sequence, *states) if lstm else (sequence, states[0])
