"""What searches choose with: the core's, or, where that is not built, what says in numpy what it means."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import beams, ranking, variates


class Choices(NamedTuple):
    scores: Any  #: :class:`.ranking.Scores`
    uniforms: Any  #: :func:`.ranking.uniforms`
    normal: Any  #: :func:`.variates.normal`
    beams: Any  #: :class:`.beams.Beams`


def choices() -> Choices:
    """The core's choices, or those in numpy."""
    try:
        from ..engine.backends import _packed
    except ImportError:
        return Choices(ranking.Scores, ranking.uniforms, variates.normal, beams.Beams)
    return Choices(_packed.Scores, _packed.uniforms, _packed.normal, _packed.Beams)
