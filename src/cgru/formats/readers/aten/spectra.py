"""torch.stft and the complex numbers that it gives: a real and an imaginary value of the graph side by side."""

from __future__ import annotations

import numpy as np

from ....errors import UnsupportedError
from .joins import joined
from .lowering import Lowering, handles
from .pointwise import binary, unary
from .program import Call
from .values import B, Complex, Misread, T, Tensor


@handles("stft")
def _stft(lo: Lowering, call: Call) -> Complex:
    """Σ_n x[j · hop + n] window[n] exp(−2πi k n / size): a convolution with cosines and sines (torch.stft)."""
    x, size = lo.tensor(call), lo.arg(call, 1, "n_fft")
    hop, width = lo.arg(call, 2, "hop_length", None) or size // 4, lo.arg(call, 3, "win_length", None) or size
    window = lo.known(call, 4, "window", None)
    # TorchScript's code does not say which of torch's two operators it calls; one has a word there.
    more = 2 if call.op.endswith(".center") or (len(call.args) > 6 and isinstance(call.args[6], str)) else 0
    normalized, sided = lo.arg(call, 5 + more, "normalized", False), lo.arg(call, 6 + more, "onesided", None)
    if more and lo.arg(call, 5, "center", True):
        mode = {"replicate": "edge", "circular": "wrap"}.get(mode := lo.arg(call, 6, "pad_mode", "constant"), mode)
        x = Tensor(lo.emit("pad_time", x.name, left=size // 2, right=size // 2, mode=mode), x.axes, x.shape)
    if not lo.arg(call, 7 + more, "return_complex", False):
        raise UnsupportedError("stft that gives no complex numbers; call it with return_complex=True")
    if x.axes not in ((B, T), (T,)) or lo.g.values[x.name].size != 1:
        raise Misread("stft takes (rows, samples), and the axes are others")
    lo.evident = True
    if lo.lengths:
        raise UnsupportedError("spectra, where rows have lengths")
    shape = np.ones(width) if window is None else np.asarray(window, np.float64)
    if len(shape) != width or width > size:
        raise UnsupportedError(f"a window of {len(shape)} numbers for win_length={width} and n_fft={size}")
    left = (size - width) // 2
    shape = np.pad(shape, (left, size - width - left)) * (size**-0.5 if normalized else 1.0)
    bins = size if sided is False else size // 2 + 1
    angle = 2 * np.pi * (np.outer(np.arange(bins), np.arange(size)) % size) / size
    waves = (np.concatenate([np.cos(angle), -np.sin(angle)]) * shape)[:, None].astype(np.float32)
    name = x.name if lo.features(x) == (1,) else lo.emit("reshape", x.name, features=(1,))
    both = lo.emit("conv1d", name, weights={"weight": waves}, units=2 * bins, width=size, stride=hop)
    axes = (*x.axes[:-1], 0, T)
    parts = (lo.emit("slice", both, start=i * bins, stop=(i + 1) * bins, axis=0) for i in (0, 1))
    return Complex(*(Tensor(part, axes, call.shape or ()) for part in parts))


@handles("view_as_complex")
def _pairs(lo: Lowering, call: Call) -> Complex:
    x = lo.natural(lo.tensor(call))
    axis = x.axes[-1]
    if not isinstance(axis, int) or lo.features(x)[axis] != 2:
        raise Misread("complex numbers of an axis that is not one of two features")
    names = (lo.emit("slice", x.name, start=i, stop=i + 1, axis=axis) for i in (0, 1))
    return Complex(*(Tensor(name, x.axes[:-1], x.shape[:-1]) for name in names))


def _complex(lo: Lowering, call: Call, place: int = 0, name: str = "self") -> Complex:
    value = lo.arg(call, place, name)
    if not isinstance(value, Complex):
        raise UnsupportedError(f"its argument {name} holds no complex numbers as cgru follows them")
    return value


@handles("complex.view_as_real")
def _apart(lo: Lowering, call: Call) -> Tensor:
    z = _complex(lo, call)
    return joined(lo, [z.real, z.imag], -1, stack=True)


@handles("complex.real", "complex.imag")
def _part(lo: Lowering, call: Call) -> Tensor:
    z = _complex(lo, call)
    return z.real if call.base == "real" else z.imag


@handles("complex.abs")
def _magnitude(lo: Lowering, call: Call) -> Tensor:
    z = _complex(lo, call)
    return unary(lo, binary(lo, "add", *(binary(lo, "mul", part, part) for part in (z.real, z.imag))), "sqrt")


@handles("complex.angle")
def _angle(lo: Lowering, call: Call) -> Tensor:
    z = _complex(lo, call)
    return binary(lo, "atan2", z.imag, z.real)


@handles("complex.mul", "complex.div")
def _scaled(lo: Lowering, call: Call) -> Complex:
    """Of two complex numbers their product, (a + bi)(c + di) = ac − bd + (ad + bc)i, or one times or by a real one."""
    a, b = lo.arg(call, 0, "self"), lo.arg(call, 1, "other")
    if isinstance(a, Complex) and isinstance(b, Complex):
        if call.base == "div":
            raise UnsupportedError("a quotient of complex numbers")
        products = [binary(lo, "mul", x, y) for x in (a.real, a.imag) for y in (b.real, b.imag)]
        return Complex(binary(lo, "sub", products[0], products[3]), binary(lo, "add", products[1], products[2]))
    if not isinstance(a, Complex):
        if call.base == "div":
            raise UnsupportedError("a quotient of complex numbers")
        a, b = b, a
    return Complex(*(binary(lo, call.base, part, b) for part in (a.real, a.imag)))
