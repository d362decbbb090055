"""What reduced precision costs: relative RMS error of the output against float64, beside PyTorch's int8.

    python bench/accuracy.py [--models FOLDER] [--backend packed] [--json FILE]

GRUs of random weights (PyTorch's initial ones, and 2.5 times those) and, where FOLDER (../shared/models beside the
checkout) is there, trained ones on the input they were made for: the two of NSNet2, and the encoder of g2p_en on its
reference words. "weights only" is what int8 weights cost by themselves: float64 with the weights rounded, nothing else.
PyTorch is `torch.ao.quantization.quantize_dynamic` with the engine "x86"; "–" where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cells import Cell, exact, make_tensors

import cgru

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT.parent / "shared" / "models"
REDUCED = ("int8", "int8x16", "bf16", "fp16")
COLUMNS = ("int8", "int8x16", "weights only", "bf16", "fp16", "PyTorch int8")

#: What is asked of each column: its largest error, and its largest multiple of another column.
LIMITS = {"int8": 1.3e-2, "bf16": 4e-3, "fp16": 6e-4}
RATIOS = {"int8": (0.6, "PyTorch int8"), "int8x16": (1.1, "weights only")}

Tensors = dict[str, np.ndarray]
Run = Callable[[Tensors, Cell, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Work:
    """A stack of GRUs (reset after, PyTorch's names) and its inputs: arrays (B, T, I), each by itself."""

    name: str
    tensors: Tensors
    layers: int
    inputs: list[np.ndarray] = field(repr=False)

    def cell(self, x: np.ndarray) -> Cell:
        rows, width = self.tensors["weight_ih_l0"].shape
        return Cell(x.shape[0], x.shape[1], width, rows // 3, self.layers)


def random_work() -> Iterator[Work]:
    for scale in (1.0, 2.5):
        cell = Cell(4, 120, 192, 192)
        tensors = {key: np.float32(scale) * array for key, array in make_tensors(cell).items()}
        x = np.random.default_rng(1).standard_normal((cell.B, cell.T, cell.I), dtype=np.float32)
        yield Work(f"random H=192, weights × {scale:g}", tensors, 1, [x])


def _initializers(path: Path) -> Tensors:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from onnx_wire import initializers
    finally:
        del sys.path[0]
    return initializers(path)


def _from_onnx(tensors: Tensors, w: str, r: str, b: str, layer: int) -> Tensors:
    """ONNX stacks z, r, h, and puts both biases in one row."""
    parts = (tensors[w][0], tensors[r][0], *np.split(tensors[b][0], 2))
    stems = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    found = {}
    for stem, part in zip(stems, parts, strict=True):
        z, reset, n = np.split(part, 3)
        found[f"{stem}_l{layer}"] = np.concatenate([reset, z, n])
    return found


def trained_work(models: Path) -> Iterator[Work]:
    tensors = _initializers(models / "nsnet2" / "nsnet2.onnx")
    with np.load(models / "nsnet2" / "nsnet2_ref.npz") as ref:
        x1, x2 = ref["gru1_x"][None, :, 0], ref["gru1_y"][None, :, 0, 0]
    first, second = ("192", "193", "194"), ("212", "213", "214")
    yield Work("nsnet2, first GRU", _from_onnx(tensors, *first, 0), 1, [x1])
    yield Work("nsnet2, second GRU", _from_onnx(tensors, *second, 0), 1, [x2])
    both = _from_onnx(tensors, *first, 0) | _from_onnx(tensors, *second, 1)
    yield Work("nsnet2, both in a row", both, 2, [x1])
    with np.load(models / "g2p_en" / "checkpoint20.npz") as held, np.load(models / "g2p_en" / "g2p_ref.npz") as ref:
        table, words = held["enc_emb"], ref["words"].tolist()
        gru = {f"{stem}_l0": held[f"enc_{key}"] for stem, key in _G2P.items()}
    letters = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    spelled = [[letters.index(letter) for letter in word] + [letters.index("</s>")] for word in words]
    yield Work("g2p_en, encoder, 20 words", gru, 1, [table[None, ids] for ids in spelled])


_G2P = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}


# ---- the columns ---------------------------------------------------------------------------------------------------


def reduced(precision: str, backend: str) -> Run:
    def run(tensors: Tensors, cell: Cell, x: np.ndarray) -> np.ndarray:
        gru = cgru.GRU(tensors, num_layers=cell.L)
        return cgru.Model([gru], backend=backend).quantize(precision)(x)

    return run


def rounded(tensors: Tensors) -> Tensors:
    """Matrices as int8 weights give them back: each row whole multiples of its largest magnitude / 127."""
    found = dict(tensors)
    for key, array in tensors.items():
        if array.ndim == 2:
            scale = np.abs(array).max(axis=1, keepdims=True).astype(np.float64) / 127
            found[key] = np.rint(array / np.where(scale == 0, 1, scale)) * scale
    return found


def full(tensors: Tensors, cell: Cell, x: np.ndarray) -> np.ndarray:
    """The output in float64."""
    return exact(cell, tensors, x, np.zeros((cell.L, cell.B, cell.H)))[0]


def weights_only(tensors: Tensors, cell: Cell, x: np.ndarray) -> np.ndarray:
    return full(rounded(tensors), cell, x)


def torch_int8(tensors: Tensors, cell: Cell, x: np.ndarray) -> np.ndarray:
    import torch

    torch.backends.quantized.engine = "x86"
    module = torch.nn.GRU(cell.I, cell.H, cell.L, batch_first=True)
    module.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in tensors.items()})
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it says that it is deprecated
        # Only what a module holds is replaced, so the GRU needs a holder.
        held = torch.ao.quantization.quantize_dynamic(torch.nn.ModuleList([module]), {torch.nn.GRU}, dtype=torch.qint8)
        assert type(held[0]) is not torch.nn.GRU
        return held[0](torch.from_numpy(np.array(x)))[0].numpy()


def columns(backend: str) -> dict[str, Run]:
    found: dict[str, Run] = {precision: reduced(precision, backend) for precision in REDUCED}
    found["weights only"] = weights_only
    try:
        import torch  # noqa: F401

        found["PyTorch int8"] = torch_int8
    except ImportError:
        pass
    return {name: found[name] for name in COLUMNS if name in found}


# ---- the table -----------------------------------------------------------------------------------------------------


def relative(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """Root mean square of the error over that of what is right, all inputs together."""
    error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(got, want, strict=True))
    return float(np.sqrt(error / sum(float(np.square(b).sum()) for b in want)))


def measure(work: Work, runs: dict[str, Run]) -> dict[str, float]:
    want = [full(work.tensors, work.cell(x), x) for x in work.inputs]
    return {
        name: relative([run(work.tensors, work.cell(x), x) for x in work.inputs], want) for name, run in runs.items()
    }


def beyond(found: dict[str, float]) -> list[str]:
    """What a row does not keep of the limits, in words."""
    said = [f"{name} > {limit:g}" for name, limit in LIMITS.items() if found.get(name, 0) > limit]
    for name, (most, other) in RATIOS.items():
        if name in found and other in found and found[name] > most * found[other]:
            said.append(f"{name} > {most:g} × {other}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the trained networks")
    parser.add_argument("--backend", default="packed")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    works = list(random_work())
    if given.models.is_dir():
        works += trained_work(given.models)
    else:
        print(f"{given.models} is not here: random networks only", file=sys.stderr)
    report(works, columns(given.backend), given.json)


def report(works: list[Work], runs: dict[str, Run], path: Path | None = None) -> None:
    width = max(len(work.name) for work in works) + 2
    print("relative RMS error".ljust(width) + "".join(name.rjust(14) for name in COLUMNS))
    table = {}
    for work in works:
        found = table[work.name] = measure(work, runs)
        cells = "".join((f"{found[name]:.2e}" if name in found else "–").rjust(14) for name in COLUMNS)
        print(work.name.ljust(width) + cells + "".join(f"   {said}" for said in beyond(found)), flush=True)
    if path is not None:
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
