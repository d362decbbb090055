"""Pictures: what the gates of a network did, over time. Needs matplotlib, the extra ``cgru[plot]``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CgruError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The gates worth a heat map, in the order drawn, and what each says.
GATES = {
    "z": "fraction kept (z)",
    "r": "reset gate (r)",
    "i": "input gate (i)",
    "o": "output gate (o)",
}
#: At most so many steps are drawn one by one; longer sequences are averaged down to about as many columns.
COLUMNS = 2000
_LEAST_KEPT = 1e-6


def memory(z: np.ndarray) -> np.ndarray:
    """Mean over time of log z, for each unit: how much of the state a unit keeps, on average, at a step.

    ``z`` (T, H) is the fraction kept. A unit of mean m holds half of what it had for ln(1/2) / m steps.
    """
    return np.log(np.clip(z.astype(np.float64), _LEAST_KEPT, 1.0)).mean(axis=0)


def half_life(z: np.ndarray) -> np.ndarray:
    """Steps after which half of a unit's state is left, (H,); infinite where it keeps all."""
    with np.errstate(divide="ignore"):
        return np.log(0.5) / np.minimum(memory(z), -0.0)


def require_matplotlib() -> None:
    """Raise :class:`CgruError` where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise CgruError('drawing needs matplotlib, which is not installed: pip install "cgru[plot]"') from None


def gates_figure(found: Mapping[str, np.ndarray], x: np.ndarray, *, title: str = "", names: Any = None) -> Figure:
    """A figure of one direction of one layer over one sequence.

    ``found`` is gate → (T, H) as ``net.gates`` gives it, ``x`` (T, I) or ids (T,) the input; ``names`` labels its
    features. Under the input stand the gates as heat maps, one row a unit, the units sorted by how long they remember
    (the longest on top), then a histogram of their memory's half-life.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter

    z = np.asarray(found["z"])
    if z.ndim != 2 or not z.size:
        raise ShapeError(f"gates: expected (T, H) of one sequence with at least one step, found shape {z.shape}")
    steps = len(z)
    shown = [gate for gate in GATES if gate in found and np.shape(found[gate]) == z.shape]
    if not z.any():  # a simple RNN has no gates: its state is what there is to see
        shown = []
    order = np.argsort(-memory(z), kind="stable")
    panels = [(GATES[gate], np.asarray(found[gate])[:, order], "viridis", (0.0, 1.0)) for gate in shown]
    h = np.asarray(found["h"])
    reach = float(np.abs(h).max()) or 1.0
    rows = h[:, order] if h.shape == z.shape else h
    panels.append(("state (h)", rows, "RdBu_r", (-reach, reach)))

    height = 1.7 + 1.9 * len(panels) + 1.9
    figure = Figure(figsize=(11, height), layout="constrained")
    grid = figure.subplots(len(panels) + 2, 1, height_ratios=[1.1, *[1.4] * len(panels), 1.1])
    edges = np.arange(steps)
    _draw_input(grid[0], edges, x, names)
    grid[0].set_title(title or "what the gates did")
    for axes, (label, values, colours, limits) in zip(grid[1:-1], panels, strict=True):
        picture = axes.imshow(
            _thinned(values).T,
            aspect="auto",
            interpolation="nearest",
            cmap=colours,
            vmin=limits[0],
            vmax=limits[1],
            extent=(-0.5, steps - 0.5, values.shape[1] - 0.5, -0.5),
        )
        axes.set(ylabel=f"{label}\nunit, by memory")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.sharex(grid[0])
        axes.tick_params(labelbottom=axes is grid[-2])
        figure.colorbar(picture, ax=axes, pad=0.01, fraction=0.03)
    grid[0].tick_params(labelbottom=False)
    grid[-2].set_xlabel("time step")
    _draw_half_lives(grid[-1], half_life(z), steps)
    grid[-1].xaxis.set_minor_formatter(NullFormatter())
    return figure


def _draw_input(axes: Any, edges: np.ndarray, x: np.ndarray, names: Any) -> None:
    x = np.asarray(x)
    columns = x[:, None] if x.ndim == 1 else x
    if columns.shape[1] <= 8:
        for k in range(columns.shape[1]):
            axes.plot(edges, columns[:, k], lw=0.9, label=None if names is None else str(names[k]))
        if names is not None:
            axes.legend(frameon=False, fontsize="small", ncols=4, loc="upper left")
    else:
        axes.imshow(
            _thinned(columns).T,
            aspect="auto",
            interpolation="nearest",
            cmap="Greys",
            extent=(-0.5, len(columns) - 0.5, columns.shape[1] - 0.5, -0.5),
        )
    axes.set(ylabel="token id" if x.ndim == 1 else "input", xlim=(-0.5, len(edges) - 0.5))


def _draw_half_lives(axes: Any, lives: np.ndarray, steps: int) -> None:
    """A histogram on a logarithmic axis; what outlives ten times the sequence is counted at its end."""
    low, high = 0.05, 10.0 * steps
    kept = np.clip(lives, low, high)
    bins = np.geomspace(low, high, 41)
    axes.hist(kept, bins=bins, color="C0")
    middle = float(np.median(lives))
    axes.axvline(np.clip(middle, low, high), color="C3", lw=1.2)
    axes.axvline(steps, color="0.5", lw=1, ls=":")
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    where["bbox"] = {"boxstyle": "square,pad=0.1", "color": "white"}
    axes.annotate(f"median {middle:.3g} steps", (np.clip(middle, low, high), 1), (5, -12), color="C3", **where)
    axes.annotate("length of the sequence", (steps, 1), (-5, -28), ha="right", color="0.4", **where)
    axes.set(xscale="log", xlim=(low, high), xlabel="half-life of a unit's memory (steps)", ylabel="units")


def _thinned(values: np.ndarray) -> np.ndarray:
    """(T, H) averaged over time down to at most COLUMNS rows."""
    times = -(-len(values) // COLUMNS)
    if times == 1:
        return values
    cut = np.arange(0, len(values), times)
    return np.add.reduceat(values, cut, axis=0) / np.diff([*cut, len(values)])[:, None]


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; :class:`CgruError` where matplotlib does not know the file's ending."""
    try:
        figure.savefig(path, dpi=110)
    except ValueError as error:
        raise CgruError(f"{os.fspath(path)}: {error}; give a name that ends in .png, .svg or .pdf") from None
