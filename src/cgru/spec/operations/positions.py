"""Numbers that belong to the place of a frame in its sequence: learned or sinusoidal tables of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ...errors import ShapeError
from ..operation import ArrayInfo, Operation, Option, Options, at_least, positive_sizes, register
from ..values import Value


@register
class Positions(Operation):
    """Row t of a table at frame t of ``like``: table (limit, *features), frames counted from a row's beginning.

    A sequence of more than ``limit`` frames is a :class:`~cgru.ShapeError` when it runs; a stream carries the count.
    """

    name = "positions"
    roles = ("like",)
    options: ClassVar[Mapping[str, Option]] = {
        "limit": Option(int, ..., at_least(1)),
        "features": Option(tuple, ..., positive_sizes),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        like = inputs[0]
        if like is None or like.clock is None or like.clock.root:
            raise ShapeError(f"{where}: its input like must have the network's time axis")
        return Value(tuple(options["features"]), like.clock)

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        return {"table": ArrayInfo((options["limit"], *options["features"]))}

    def state(self, options: Options, inputs: Sequence[Value | None]) -> list[tuple[str, int]]:
        return [("count", 1)]


def refuse_beyond(limit: int, frames: int, where: str) -> None:
    """Raises where a row has had more frames than a table of positions has rows."""
    if frames > limit:
        raise ShapeError(
            f"x: the network has {limit} positions ({where}), and frame {frames} of a row would have none: pass at "
            f"most {limit} frames there, or begin a new stream"
        )
