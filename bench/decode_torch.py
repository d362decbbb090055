"""The decoder of decode.py in PyTorch: its eager loop, the same loop as TorchScript, and its steps by torch.compile."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

WAYS = ("PyTorch", "TorchScript", "torch.compile")


class Loops(torch.nn.Module):
    """The loops, written so that TorchScript takes them whole. torch.compile gets what a step does: of a whole loop it
    would write out every step."""

    def __init__(self, w: dict[str, np.ndarray], attention: bool) -> None:
        super().__init__()
        self.attention = attention
        self.cell = torch.nn.GRUCell(w["w_ih"].shape[1], w["w_hh"].shape[1])
        names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
        self.cell.load_state_dict({name: torch.tensor(w[of]) for name, of in names.items()})
        self.embedding, self.bias = torch.tensor(w["embedding"]), torch.tensor(w["bias"])
        self.out, self.key = torch.tensor(w["both" if attention else "out"]).T, torch.tensor(w["key"]).T

    def step(self, token: Tensor, h: Tensor, memory: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(self.embedding[token], h)
        if not self.attention:
            return torch.addmm(self.bias, h, self.out), h
        weights = torch.softmax(torch.bmm(key, h[:, :, None])[:, :, 0], 1)
        context = torch.bmm(weights[:, None], memory)[:, 0]
        return torch.addmm(self.bias, torch.cat([h, context], 1), self.out), h

    def best(self, token: Tensor, h: Tensor, memory: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        logits, h = self.step(token, h, memory, key)
        return logits.argmax(1), h

    def better(
        self, token: Tensor, h: Tensor, memory: Tensor, key: Tensor, total: Tensor, width: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, h = self.step(token, h, memory, key)
        best, at = (total + torch.log_softmax(logits, 1)).flatten().topk(width)
        parent = at // logits.shape[1]
        return at % logits.shape[1], parent, h[parent], best[:, None]

    def draw(self, h: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.addmm(self.bias, h, self.out)
        value = y[:, :1] + torch.exp(y[:, 1:]) * noise
        return value, self.cell(value, h)

    @torch.jit.export
    def greedy(self, h: Tensor, memory: Tensor, steps: int) -> Tensor:
        key = memory @ self.key
        token = torch.zeros(h.shape[0], dtype=torch.long)
        found: list[Tensor] = []
        for _ in range(steps):
            token, h = self.best(token, h, memory, key)
            found.append(token)
        return torch.stack(found, 1)

    @torch.jit.export
    def beam(self, h: Tensor, memory: Tensor, steps: int, width: int) -> tuple[Tensor, Tensor]:
        """Tokens and parents of every step; the first step has one beam, the others ``width``."""
        key = memory @ self.key
        token, total = torch.zeros(1, dtype=torch.long), torch.zeros(1, 1)
        token, parent, h, total = self.better(token, h, memory, key, total, width)
        memory, key = memory.expand(width, -1, -1).contiguous(), key.expand(width, -1, -1).contiguous()
        tokens, parents = [token], [parent]
        for _ in range(steps - 1):
            token, parent, h, total = self.better(token, h, memory, key, total, width)
            tokens.append(token)
            parents.append(parent)
        return torch.stack(tokens), torch.stack(parents)

    @torch.jit.export
    def paths(self, h: Tensor, noise: Tensor) -> Tensor:
        """(paths, steps) of a state h (paths, H) and noise (steps, paths, 1)."""
        made: list[Tensor] = []
        for t in range(noise.shape[0]):
            value, h = self.draw(h, noise[t])
            made.append(value)
        return torch.cat(made, 1)

    def forward(self, h: Tensor, memory: Tensor, steps: int) -> Tensor:
        return self.greedy(h, memory, steps)


class Torch:
    """One of :data:`WAYS`."""

    def __init__(self, way: str, w: dict[str, np.ndarray], attention: bool) -> None:
        torch.set_num_threads(1)
        self.loops: Any = Loops(w, attention).eval()
        hidden, inputs = w["w_hh"].shape[1], w["w_ih"].shape[1]
        self.history = torch.nn.GRU(inputs, hidden, batch_first=True)
        self.history.load_state_dict({f"{name}_l0": at for name, at in self.loops.cell.state_dict().items()})
        if way == "TorchScript":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is deprecated
                self.loops = torch.jit.freeze(torch.jit.script(self.loops), ["greedy", "beam", "paths"])
        elif way == "torch.compile":
            import torch._inductor.config as inductor

            inductor.compile_threads = 1
            for name in ("best", "better", "draw"):
                setattr(self.loops, name, torch.compile(getattr(self.loops, name), dynamic=False))

    def greedy(self, h: np.ndarray, memory: np.ndarray, steps: int) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = self.loops.greedy(torch.from_numpy(h), torch.from_numpy(memory), steps).numpy()
            return found

    def beam(self, h: np.ndarray, memory: np.ndarray, steps: int, width: int) -> np.ndarray:
        with torch.inference_mode():
            made = self.loops.beam(torch.from_numpy(h), torch.from_numpy(memory), steps, width)
            return best_path(*(part.tolist() for part in made))

    def paths(self, history: np.ndarray, noise: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            _, h = self.history(torch.from_numpy(history)[None])
            h = h[0].expand(noise.shape[1], -1).contiguous()
            found: np.ndarray = self.loops.paths(h, torch.from_numpy(noise)).numpy()
            return found


def best_path(tokens: list[Any], parents: list[Any]) -> np.ndarray:
    """The tokens of the best beam, from the last step back to the first."""
    path, at = [], 0
    for step, before in zip(tokens[::-1], parents[::-1], strict=True):
        path.append(step[at])
        at = before[at]
    return np.array(path[::-1])
