"""Makes tests/fixtures/pt2: small modules as torch.export writes them, those of torchscript_models.py.

Run ``python tests/make_fixtures/pt2_models.py`` with PyTorch 2.13.0 installed. ``golden.npz`` holds, under
``<file>:<name>``, the inputs by the names of forward()'s arguments and its outputs y0, y1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from exported import save
from torchscript_models import Spotter, Two

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "pt2"


def main() -> None:
    torch.manual_seed(9)
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden: dict[str, Any] = {}
    cases: list[tuple[str, torch.nn.Module, dict[str, torch.Tensor], int]] = [
        ("spotter", Spotter(), {"x": torch.randn(3, 5, 31)}, 2),
        ("two", Two(), {"ids": torch.randint(0, 11, (3, 6)), "x": torch.randn(3, 6, 2)}, 1),
    ]
    for name, module, inputs, time_axis in cases:
        module.eval()
        with torch.no_grad():
            y = module(*inputs.values())
        save(module, tuple(inputs.values()), FOLDER / f"{name}.pt2", time_axis=time_axis, deflated=True)
        golden.update({f"{name}.pt2:{key}": value.numpy() for key, value in inputs.items()})
        outputs = y if isinstance(y, tuple) else (y,)
        golden.update({f"{name}.pt2:y{i}": value.numpy() for i, value in enumerate(outputs)})
    np.savez_compressed(FOLDER / "golden.npz", **golden)


if __name__ == "__main__":
    main()
