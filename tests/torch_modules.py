"""A torch module around any function. Importing this skips the module that does, where PyTorch is not installed."""

from __future__ import annotations

from typing import Any

import pytest

nn: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]").nn


class Own(nn.Module):
    """A module whose forward() is given: ``call(self, x)``, with ``parts`` for attributes."""

    def __init__(self, call: Any, **parts: Any) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.call(self, x)
