"""Write tests/fixtures/golden/*.npz: networks, inputs and PyTorch 2.13.0's own answers.

    python tests/make_fixtures/golden.py

Needs torch==2.13.0. h0 is never zero and its rows differ; lengths come in any order. A row of length 0, which
pack_padded_sequence refuses, is left out of torch's call: it emits zeros and keeps its state.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"

#: name: (I, H, layers, directions, bias, B, T, lengths)
CASES: dict[str, tuple[int, int, int, int, bool, int, int, tuple[int, ...] | None]] = {
    "one": (1, 1, 1, 1, True, 1, 7, None),
    "plain": (3, 7, 1, 1, True, 4, 9, None),
    "no_bias": (7, 15, 1, 2, False, 2, 6, None),
    "ragged": (5, 17, 1, 1, True, 6, 8, (3, 8, 0, 1, 8, 5)),
    "stacked": (4, 16, 3, 1, True, 2, 10, None),
    "ragged_bidirectional": (3, 9, 2, 2, True, 5, 7, (2, 7, 0, 5, 1)),
    "wide": (10, 63, 1, 1, True, 2, 30, None),
    "long": (2, 8, 1, 2, True, 1, 50, None),
}


def make(name: str, seed: int) -> None:
    inputs, hidden, layers, directions, bias, batch, steps, lengths = CASES[name]
    torch.manual_seed(seed)
    net = torch.nn.GRU(inputs, hidden, layers, bias=bias, bidirectional=directions == 2, batch_first=True).eval()
    x = torch.randn(batch, steps, inputs)
    h0 = torch.randn(layers * directions, batch, hidden)
    with torch.no_grad():
        if lengths is None:
            out, h_n = net(x, h0)
        else:
            rows = [b for b, n in enumerate(lengths) if n]
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                x[rows], [lengths[b] for b in rows], batch_first=True, enforce_sorted=False
            )
            y, h = net(packed, h0[:, rows].contiguous())
            out, h_n = torch.zeros(batch, steps, directions * hidden), h0.clone()
            out[rows], _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=steps)
            h_n[:, rows] = h
    found = {f"weights.{key}": value.numpy() for key, value in net.state_dict().items()}
    found |= {"x": x.numpy(), "h0": h0.numpy(), "out": out.numpy(), "h_n": h_n.numpy()}
    if lengths is not None:
        found["lengths"] = np.array(lengths)
    np.savez_compressed(GOLDEN / f"{name}.npz", **found)


if __name__ == "__main__":
    assert torch.__version__.split("+")[0] == "2.13.0", torch.__version__
    GOLDEN.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed, name in enumerate(CASES):
        make(name, seed)
