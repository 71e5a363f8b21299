"""Pictures of the intermediate results that tasks show on request."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from starmill.diagnostics.figures import save_figure, show_exposure

__all__ = ["DebugDisplay"]


class DebugDisplay:
    """Save a picture each time a task shows an exposure.

    Give it to a task: ``CharacterizeImageTask(debug=DebugDisplay("debug", {"repair_iter", "psf"}))``.

    Parameters
    ----------
    folder : path
        Made when the first picture is saved.
    names : collection of str, optional
        The hooks to draw; all when not given. The characterisation has ``background_iter``, ``repair_iter``,
        ``measure_iter``, ``psf``, ``repair`` and ``measure``.
    mask : sequence of str
        Planes drawn in colour.

    Attributes
    ----------
    saved : list of Path
        The pictures so far; their names count them and say hook and task.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Collection[str] | None = None,
        *,
        mask: tuple[str, ...] = ("SAT", "CR", "BAD"),
    ) -> None:
        self.folder = Path(folder)
        self.names = names
        self.mask = mask
        self.saved: list[Path] = []

    def __call__(
        self, name: str, *, task: Any, exposure: Any = None, catalog: Any = None, **items: Any
    ) -> None:
        """Draw ``exposure`` with ``catalog``; what a hook shows beside them is named in the title."""
        if exposure is None or (self.names is not None and name not in self.names):
            return
        path = self.folder / f"{len(self.saved) + 1:03d}_{name}_{task.full_name}.png"
        plain = ", ".join(
            f"{key} {value}" for key, value in items.items() if isinstance(value, int | float | str)
        )
        title = f"{task.full_name}: {name} {plain}"
        save_figure(show_exposure(exposure, mask=self.mask, catalog=catalog, title=title), path)
        self.saved.append(path)
