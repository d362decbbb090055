"""What reduced precision costs: relative RMS error of the output against float64, beside PyTorch's int8.

    python bench/accuracy.py [--models FOLDER] [--backend packed] [--json FILE]

GRUs of random weights (PyTorch's initial ones, and 2.5 times those), and where FOLDER (../shared/models beside the
checkout) is there, every recurrent layer and every whole chain of its trained networks, on the input each was made
for; those of GTCRN need ONNX Runtime and onnx, which tell what enters its layers. Float64 is cgru's reference
backend. "weights only" is what int8 weights cost by themselves: float64 on the weights rounded. PyTorch is
`torch.ao.quantization.quantize_dynamic` with the engine "x86", for the layers that it has. The last rows are the
median and the worst of the trained ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accuracy_works import Work, random_work, trained_work

import cgru

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
REDUCED = ("int8", "int8x16", "bf16", "fp16")
COLUMNS = ("int8", "int8x16", "weights only", "bf16", "fp16", "PyTorch int8")

Outputs = list[np.ndarray]
Run = Callable[[Work], Outputs | None]


# ---- the columns ---------------------------------------------------------------------------------------------------


def reduced(precision: str, backend: str) -> Run:
    def run(work: Work) -> Outputs:
        net = cgru.Model(work.layers).quantize(precision)
        again = cgru.Model(net.layers, backend=backend)
        return [again(x) for x in work.inputs]

    return run


def full(work: Work) -> Outputs:
    """The output in float64."""
    net = cgru.Model(work.layers, backend="reference")
    return [net(x) for x in work.inputs]


def torch_int8(work: Work) -> Outputs | None:
    """None where the work is not one layer of torch's."""
    import torch

    layer = work.layers[0]
    whole = len(work.layers) == 1 and isinstance(layer, (cgru.GRU, cgru.LSTM)) and layer.activation == "tanh"
    if not whole or getattr(layer, "reset", "after") != "after":
        return None
    torch.backends.quantized.engine = "x86"
    arrays = {key: torch.from_numpy(np.array(array)) for key, array in layer.arrays().items()}
    kind = torch.nn.GRU if isinstance(layer, cgru.GRU) else torch.nn.LSTM
    module = kind(
        layer.input_size, layer.hidden_size, layer.num_layers, batch_first=True, bidirectional=layer.bidirectional
    )
    module.load_state_dict(arrays)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it says that it is deprecated
        # Only what a module holds is replaced, so the layer needs a holder.
        held = torch.ao.quantization.quantize_dynamic(torch.nn.ModuleList([module]), {kind}, dtype=torch.qint8)
        assert type(held[0]) is not kind
        return [held[0](torch.from_numpy(np.array(x)))[0].numpy() for x in work.inputs]


def columns(backend: str) -> dict[str, Run]:
    found: dict[str, Run] = {precision: reduced(precision, backend) for precision in REDUCED}
    found["weights only"] = reduced("int8", "reference")
    try:
        import torch  # noqa: F401

        found["PyTorch int8"] = torch_int8
    except ImportError:
        pass
    return {name: found[name] for name in COLUMNS if name in found}


# ---- the table -----------------------------------------------------------------------------------------------------


def relative(got: Outputs, want: Outputs) -> float:
    """Root mean square of the error over that of what is right, all inputs together."""
    error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(got, want, strict=True))
    return float(np.sqrt(error / sum(float(np.square(b.astype(np.float64)).sum()) for b in want)))


def measure(work: Work, runs: dict[str, Run]) -> dict[str, float]:
    want = full(work)
    outputs = {name: run(work) for name, run in runs.items()}
    return {name: relative(got, want) for name, got in outputs.items() if got is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the trained networks")
    parser.add_argument("--backend", default="packed")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    trained = list(trained_work(given.models)) if given.models.is_dir() else []
    if not trained:
        print(f"{given.models} is not here: random networks only", file=sys.stderr)
    report(list(random_work()), trained, columns(given.backend), given.json)


def report(random: list[Work], trained: list[Work], runs: dict[str, Run], path: Path | None = None) -> None:
    width = max(len(work.name) for work in (*random, *trained)) + 2
    print("relative RMS error".ljust(width) + "".join(name.rjust(14) for name in COLUMNS))

    def row(name: str, found: dict[str, float]) -> None:
        cells = "".join((f"{found[column]:.2e}" if column in found else "–").rjust(14) for column in COLUMNS)
        print(name.ljust(width) + cells, flush=True)

    table = {}
    for work in (*random, *trained):
        table[work.name] = measure(work, runs)
        row(work.name, table[work.name])
    if trained:
        found = {name: [t[name] for t in (table[w.name] for w in trained) if name in t] for name in runs}
        row(f"median of {len(trained)} trained", {name: statistics.median(f) for name, f in found.items() if f})
        row("worst", {name: max(f) for name, f in found.items() if f})
    if path is not None:
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
