"""What each backend promises when the same numbers are computed along two routes."""

from __future__ import annotations

import numpy as np

#: Backends that sum every output in one fixed order, so that two routes agree to the bit.
EXACT = frozenset({"packed"})

#: What the others promise, for weights as they are initialised and inputs of about 1.
TOLERANCE = 1e-6


def assert_same(backend: str, got: np.ndarray, want: np.ndarray, what: str = "") -> None:
    """``got`` is ``want``: to the bit where the backend promises bits, else within its tolerance."""
    assert got.shape == want.shape, what
    assert got.dtype == want.dtype == np.float32, what
    if backend in EXACT:
        # Compared as bits: NaN equals itself, and −0 is not 0.
        different = got.view(np.uint32) != want.view(np.uint32)
        assert not different.any(), f"{what}: {different.sum()} of {got.size} numbers differ in their bits"
    elif got.size:
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE, err_msg=what)
