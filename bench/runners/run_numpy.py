"""A GRU as one writes it in numpy, float32: the step that people use when they want no framework."""

from __future__ import annotations

import numpy as np

from runners import Unusable, Work, need_float32, need_gru


class Runner:
    """Input projection hoisted for sequences; transposes of the weights made contiguous once."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        need_gru(cell, "the numpy loop")
        need_float32(settings, "the numpy loop")
        if cell.L > 1 or cell.D > 1 or settings.threads != 1:
            raise Unusable("the numpy loop is one layer, one direction, one thread")
        self.version, self.cell, self.reset = np.__version__, cell, settings.reset
        self.w, self.r = (np.ascontiguousarray(tensors[name].T) for name in ("weight_ih_l0", "weight_hh_l0"))
        self.b_w, self.b_r = tensors["bias_ih_l0"], tensors["bias_hh_l0"]
        if settings.reset == "before":
            H = cell.H
            self.r_rz, self.r_n = (np.ascontiguousarray(part) for part in np.split(self.r, [2 * H], axis=1))
        self.step = settings.kind == "step"
        self.xs = [np.ascontiguousarray(x[:, 0]) for x in xs] if self.step else xs
        self.h0, self.h = h0[0], np.zeros_like(h0[0])

    def _advance(self, p: np.ndarray, h: np.ndarray) -> np.ndarray:
        H = self.cell.H
        if self.reset == "after":
            a = h @ self.r
            a += self.b_r
            rz = 0.5 + 0.5 * np.tanh(0.5 * (p[:, : 2 * H] + a[:, : 2 * H]))
            n = np.tanh(p[:, 2 * H :] + rz[:, :H] * a[:, 2 * H :])
        else:
            rz = 0.5 + 0.5 * np.tanh(0.5 * (p[:, : 2 * H] + h @ self.r_rz + self.b_r[: 2 * H]))
            n = np.tanh(p[:, 2 * H :] + (rz[:, :H] * h) @ self.r_n + self.b_r[2 * H :])
        return n + rz[:, H:] * (h - n)

    def call(self, k: int) -> None:
        p = self.xs[k] @ self.w
        p += self.b_w
        if self.step:
            self.h = self._advance(p, self.h)
            return
        h, self.y = self.h0, np.empty((self.cell.B, self.cell.T, self.cell.H), np.float32)
        for t in range(self.cell.T):
            h = self._advance(p[:, t], h)
            self.y[:, t] = h
        self.h = h

    def restart(self) -> None:
        self.h = np.zeros_like(self.h0)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        return (self.h[:, None] if self.step else self.y), self.h[None]
