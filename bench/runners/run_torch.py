"""PyTorch: `nn.GRU` and `nn.LSTM` (time-major, its native order) and `nn.GRUCell`; int8 by dynamic quantization."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from runners import Unusable, Work, need_reset_after


class Runner:
    """Under inference_mode; the int8 forms use the x86 engine."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        need_reset_after(settings, "PyTorch")
        if settings.precision not in ("float32", "int8", "bf16"):
            raise Unusable(f"PyTorch has no {settings.precision} that is compared here")
        import torch

        torch.set_num_threads(settings.threads)
        torch.set_grad_enabled(False)
        self._guard = torch.inference_mode()
        self._guard.__enter__()  # for the life of the process: entering it per call would be timed
        self.version, self.cell, self.torch = torch.__version__, cell, torch
        self.h, self.begin = torch.zeros(cell.B, cell.H), torch.from_numpy(h0)
        if work.c0 is not None:
            self.begin = (self.begin, torch.from_numpy(work.c0))
        weights = {name: torch.from_numpy(array) for name, array in tensors.items()}
        if settings.kind == "step":
            module: Any = torch.nn.GRUCell(cell.I, cell.H)
            weights = {name.removesuffix("_l0"): array for name, array in weights.items()}
            self.xs = [torch.from_numpy(np.ascontiguousarray(x[:, 0])) for x in xs]
            self.call = self._step
        else:
            form = torch.nn.LSTM if cell.unit == "lstm" else torch.nn.GRU
            module = form(cell.I, cell.H, num_layers=cell.L, bidirectional=cell.D == 2)
            self.xs = [torch.from_numpy(np.ascontiguousarray(x.transpose(1, 0, 2))) for x in xs]
            self.call = self._sequence
        module.load_state_dict(weights)
        module.eval()
        self.module = self._quantized(module) if settings.precision == "int8" else module
        if settings.precision == "bf16":
            self.module = module.to(torch.bfloat16)
            self.xs = [x.to(torch.bfloat16) for x in self.xs]
            self.h = self.h.to(torch.bfloat16)
            if work.c0 is None:
                self.begin = self.begin.to(torch.bfloat16)
            else:
                self.begin = tuple(state.to(torch.bfloat16) for state in self.begin)

    def _quantized(self, module: Any) -> Any:
        torch = self.torch
        torch.backends.quantized.engine = "x86"
        with warnings.catch_warnings():  # "torch.ao.quantization is deprecated"
            warnings.simplefilter("ignore")
            holder = torch.ao.quantization.quantize_dynamic(
                torch.nn.Sequential(module), {type(module)}, dtype=torch.qint8
            )
        return holder[0]

    def _sequence(self, k: int) -> None:
        self.last = self.module(self.xs[k], self.begin)

    def _step(self, k: int) -> None:
        self.h = self.module(self.xs[k], self.h)

    def restart(self) -> None:
        self.h = self.torch.zeros_like(self.h)

    def result(self) -> tuple[np.ndarray, ...]:
        if self.call == self._step:
            h = self.h.float().numpy()
            return h[:, None], h[None]
        y, states = self.last
        states = states if isinstance(states, tuple) else (states,)
        return y.float().numpy().transpose(1, 0, 2), *(state.float().numpy() for state in states)
