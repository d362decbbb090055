"""Decoding: what a trained network says, token by token or value by value. See docs/decoding.md."""

from .beam_search import beam
from .ctc import ctc_greedy
from .forecasting import forecast
from .greedy_search import greedy
from .sampling import sample

__all__ = ["beam", "ctc_greedy", "forecast", "greedy", "sample"]
