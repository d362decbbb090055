"""Why a server refuses work that is in order."""

from ..errors import CgruError


class Busy(CgruError):
    """No place now; worth trying again (503 with Retry-After)."""
