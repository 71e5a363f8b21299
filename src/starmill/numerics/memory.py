"""Memory that earlier steps have freed goes back to the system before a step that needs large planes."""

from __future__ import annotations

import ctypes

__all__ = ["release_free_memory"]


def release_free_memory() -> bool:
    """Give freed memory back to the system, where the C library can.

    The C library keeps freed temporaries of up to 32 MB for later, a set for every thread; beside the planes of a large
    image they would count for a tenth of the memory of the process. Takes a millisecond.

    Returns
    -------
    released : bool
        Whether there was any; False also where the C library has no such call.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not the GNU C library
        return False
    return bool(trim(0))
