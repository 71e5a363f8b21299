"""Named points at which a write can be cut.

Every write, rename and commit of the repository passes `reach`. In normal work it does nothing. Tests install
a hook that ends the process or raises "disk full" at the k-th point, and then show that nothing was broken.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Call `hook` with the name of every point that is reached from now on; None removes it."""
    global _hook  # noqa: PLW0603
    _hook = hook


def reach(name: str) -> None:
    """Tell an installed hook that the write has come to the point `name`."""
    if _hook is not None:
        _hook(name)
