"""A small encoder and decoder to test with, and the same in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

import cgru

VOCABULARY = 9
HIDDEN = 8
FEATURES = 6
RNG = np.random.default_rng(16)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.6).astype(np.float32)


def ids(*shape: int) -> np.ndarray:
    return RNG.integers(1, VOCABULARY, shape)


def tensors(seed: int = 0, scale: float = 0.7, vocabulary: int = VOCABULARY) -> dict[str, np.ndarray]:
    """The weights of encoder and decoder under the names that a PyTorch module of them gives."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    made = {"embedding.weight": draw(vocabulary, FEATURES)}
    for name, inputs in (("encoder", FEATURES), ("decoder", FEATURES)):
        made |= {
            f"{name}.weight_ih_l0": draw(3 * HIDDEN, inputs), f"{name}.weight_hh_l0": draw(3 * HIDDEN, HIDDEN),
            f"{name}.bias_ih_l0": draw(3 * HIDDEN), f"{name}.bias_hh_l0": draw(3 * HIDDEN),
        }  # fmt: skip
    made |= {"head.weight": draw(vocabulary, HIDDEN) * 3, "head.bias": draw(vocabulary)}
    made |= {"out.weight": draw(vocabulary, 2 * HIDDEN) * 3, "out.bias": draw(vocabulary)}
    made |= {"query.weight": draw(HIDDEN, HIDDEN), "key.weight": draw(HIDDEN, HIDDEN), "score.weight": draw(1, HIDDEN)}
    return made


def graphs(
    attention: str = "", seed: int = 0, scale: float = 0.7, vocabulary: int = VOCABULARY, softmax: bool = False
) -> dict[str, cgru.Graph]:
    """The entries "encode" (ids → memory, h0) and "decode" (token, h0 and memory → scores)."""
    w = tensors(seed, scale, vocabulary)
    embedding = cgru.Embedding(w["embedding.weight"])
    e = cgru.Graph()
    x = e.input(name="source", dtype="int64")
    encoder = cgru.GRU.from_torch(w, "encoder.").renamed("encoder")
    h = e.layer(encoder, e.layer(embedding, x))
    e.output(memory=h, h0=e.last_state(h, size=HIDDEN))
    d = cgru.Graph()
    token = d.input(name="token", dtype="int64")
    h0 = d.input(HIDDEN, name="h0", time=False)
    decoder = cgru.GRU.from_torch(w, "decoder.").renamed("decoder")
    y: Any = d.layer(decoder, d.layer(embedding, token), h0)
    if attention:
        y = d.concat(y, attended(d, y, w, attention))
        head = cgru.Dense(w["out.weight"], w["out.bias"])
    else:
        head = cgru.Dense(w["head.weight"], w["head.bias"])
    y = d.layer(head.renamed("head"), y)
    d.output(d.softmax(y, axes=(0,)) if softmax else y)
    return {"encode": e, "decode": d}


def attended(d: cgru.Graph, y: str, w: dict[str, np.ndarray], kind: str) -> str:
    """The context of a decoder's state y over a memory that lengths end: Luong's and Bahdanau's forms."""
    memory = d.input(HIDDEN, name="memory", time="memory")
    mask = d.mask_of_input(memory)
    if kind in ("general", "scaled"):
        key = d.dense(memory, units=HIDDEN, weights={"weight": w["key.weight"]})
        return d.attend(y, key, memory, mask, memory=True, factor=HIDDEN**-0.5 if kind == "scaled" else 1.0)
    if kind == "dot":
        return d.attend(y, memory, memory, mask, memory=True)
    query = d.dense(y, units=HIDDEN, weights={"weight": w["query.weight"]})
    key = d.dense(memory, units=HIDDEN, weights={"weight": w["key.weight"]})
    given = {"inner": np.ones(HIDDEN), "outer": w["score.weight"][0]}
    return d.attend(query, key, memory, mask, memory=True, kind="additive", weights=given)


class Torch:
    """The same encoder and decoder in PyTorch and float64, stepped by hand: what searches are compared with."""

    def __init__(self, attention: str, **options: Any) -> None:
        import torch

        self.torch, self.attention = torch, attention
        self.w = {name: torch.tensor(array, dtype=torch.float64) for name, array in tensors(**options).items()}
        self.cells = {}
        for name in ("encoder", "decoder"):
            cell = torch.nn.GRU(FEATURES, HIDDEN, batch_first=True).double()
            cell.load_state_dict({k.removeprefix(f"{name}."): v for k, v in self.w.items() if k.startswith(name)})
            self.cells[name] = cell

    def encode(self, x: np.ndarray) -> tuple[Any, Any]:
        """Memory (1, S, H) and state (1, 1, H) of one row of ids."""
        with self.torch.no_grad():
            memory, state = self.cells["encoder"](self.w["embedding.weight"][self.torch.tensor(x)][None])
        return memory, state

    def step(self, token: int, memory: Any, state: Any) -> tuple[np.ndarray, Any]:
        """Log-probabilities (V,) of the next token, and the state that they come of."""
        torch, w = self.torch, self.w
        with torch.no_grad():
            y, state = self.cells["decoder"](w["embedding.weight"][token][None, None], state)
            if not self.attention:
                return torch.log_softmax(y[0, 0] @ w["head.weight"].T + w["head.bias"], 0).numpy(), state
            key = memory if self.attention == "dot" else memory @ w["key.weight"].T
            if self.attention == "additive":
                scores = torch.tanh(y @ w["query.weight"].T + key) @ w["score.weight"][0]
            else:
                scores = (key @ y[0, 0]) * (HIDDEN**-0.5 if self.attention == "scaled" else 1.0)
            context = torch.softmax(scores[0], 0) @ memory[0]
            both = torch.cat([y[0, 0], context])
            return torch.log_softmax(both @ w["out.weight"].T + w["out.bias"], 0).numpy(), state
