"""The frame that measurements stand in: a plugin measures all sources of a catalogue at once.

A plugin is a class with a name, a place in the order of execution, documented columns and a method
``measure``. Registered plugins are found by name; a package of its own can register more::

    @register
    @dataclass(frozen=True)
    class CentralPixel(Plugin):
        "Value of the central pixel."

        name = "central_pixel"

        def columns(self):
            return [Column("central_pixel", "f8", "electron", "value of the pixel at the centroid")]

        def measure(self, context):
            stamps = context.stamps(1)
            return {"central_pixel": np.concatenate([s.image[:, 0, 0] for s in stamps])}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.errors import ConfigError, nearest_name
from starmill.measurement.context import MeasurementContext, SourceStamp

__all__ = [
    "ORDER_CENTROID",
    "ORDER_CLASSIFY",
    "ORDER_FLUX",
    "ORDER_SHAPE",
    "Plugin",
    "SourcePlugin",
    "make_plugins",
    "plugin_named",
    "register",
    "registered_plugins",
]

ORDER_CENTROID = 0.0
ORDER_SHAPE = 1.0
ORDER_FLUX = 2.0
ORDER_CLASSIFY = 6.0

_PLUGINS: dict[str, type[Plugin]] = {}


@dataclass(frozen=True)
class Plugin(ABC):
    """A measurement; its fields are its options.

    Attributes
    ----------
    name : str
        Unique; its general flag is the column ``<name>_flag`` (:attr:`flag_name`).
    order : float
        Plugins of smaller order run first.
    needs_psf : bool
        Whether the exposure must have a PSF.
    """

    name: ClassVar[str] = ""
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = False

    @abstractmethod
    def columns(self) -> list[Column]:
        """Return the columns that :meth:`measure` fills, without the general flag."""

    @abstractmethod
    def measure(self, context: MeasurementContext) -> Mapping[str, Any]:
        """Measure all sources.

        Parameters
        ----------
        context : MeasurementContext
            Pixels, PSF, and the columns measured so far.

        Returns
        -------
        values : mapping of column name to (n,) array
            Every column of :meth:`columns`; the general flag ``<name>_flag`` when some sources failed.
        """

    def corrected_fluxes(self) -> tuple[str, ...]:
        """Return the prefixes of the flux columns that aperture corrections apply to."""
        return ()

    @property
    def flag_name(self) -> str:
        """Name of the column that says the measurement failed."""
        return f"{self.name}_flag"

    def all_columns(self) -> list[Column]:
        """Return :meth:`columns` and the general flag."""
        columns = list(self.columns())
        if self.flag_name not in [column.name for column in columns]:
            columns.append(Column(self.flag_name, "bool", "", f"{self.name}: the measurement failed"))
        return columns


@dataclass(frozen=True)
class SourcePlugin(Plugin):
    """A measurement written for one source at a time, in plain Python.

    Slower than a plugin for the whole catalogue, and the simplest to write. A source for which
    ``measure_source`` raises is flagged and the others are measured.

    Attributes
    ----------
    stamp_size : int
        Side of the stamp that every source gets, pixels.
    """

    stamp_size: ClassVar[int] = 31

    @abstractmethod
    def measure_source(self, stamp: SourceStamp) -> Mapping[str, Any]:
        """Measure one source from its stamp; returns one value per column."""

    def measure(self, context: MeasurementContext) -> Mapping[str, Any]:
        """Call :meth:`measure_source` for every source."""
        columns = self.all_columns()
        values = {column.name: column.blank(context.n) for column in columns}
        for block in context.stamps(self.stamp_size):
            for stamp in block:
                try:
                    found = self.measure_source(stamp)
                except Exception as error:  # noqa: BLE001  a plugin of a user may raise anything
                    values[self.flag_name][stamp.index] = True
                    context.record_failure(self.name, error)
                    continue
                for name, value in found.items():
                    values[name][stamp.index] = value
        return values


def register(cls: type[Plugin]) -> type[Plugin]:
    """Make a plugin class known by its name (a class decorator).

    Raises
    ------
    ConfigError
        When the name is missing or another class has it.
    """
    known = _PLUGINS.get(cls.name)
    if not cls.name:
        raise ConfigError(f"the plugin class {cls.__name__} has no name")
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(f"two plugins are called {cls.name!r}: {known.__qualname__} and {cls.__qualname__}")
    _PLUGINS[cls.name] = cls
    return cls


def registered_plugins() -> dict[str, type[Plugin]]:
    """Return all known plugins by name, in alphabetical order."""
    return dict(sorted(_PLUGINS.items()))


def plugin_named(name: str) -> type[Plugin]:
    """Return a plugin class.

    Installed packages make theirs known with an entry point of the group ``starmill.measurements``.

    Raises
    ------
    ConfigError
        When no plugin has this name.
    """
    if name not in _PLUGINS:
        from importlib.metadata import entry_points

        for point in entry_points(group="starmill.measurements"):
            if point.name == name:
                point.load()
    if name not in _PLUGINS:
        near = nearest_name(name, _PLUGINS)
        hint = f"; did you mean {near!r}?" if near else f" (known: {', '.join(sorted(_PLUGINS))})"
        raise ConfigError(f"there is no measurement plugin {name!r}{hint}")
    return _PLUGINS[name]


def make_plugins(names: Iterable[str], options: Mapping[str, Mapping[str, Any]]) -> list[Plugin]:
    """Build plugins with their options, in the order of execution.

    Parameters
    ----------
    names : iterable of str
    options : mapping of plugin name to mapping
        Values of the fields of the plugin; lists become tuples.

    Raises
    ------
    ConfigError
        For unknown plugins and options.
    """
    names = list(dict.fromkeys(names))
    plugins = []
    for name in names:
        cls = plugin_named(name)
        known = [f.name for f in fields(cls)]
        given = {}
        for key, value in options.get(name, {}).items():
            if key not in known:
                near = nearest_name(key, known)
                hint = f"; did you mean {near!r}?" if near else f" (known: {', '.join(known) or 'none'})"
                raise ConfigError(f"the measurement plugin {name!r} has no option {key!r}{hint}")
            given[key] = tuple(value) if isinstance(value, list) else value
        plugins.append(cls(**given))
    for name in options:
        if name not in names:
            plugin_named(name)
            raise ConfigError(
                f"options are given for the measurement plugin {name!r}, which is not in the list"
            )
    return sorted(plugins, key=lambda plugin: (plugin.order, names.index(plugin.name)))


def error_from(variance: Any) -> np.ndarray:
    """Return the square root where the variance is positive, else NaN."""
    variance = np.asarray(variance, np.float64)
    return np.sqrt(np.where(variance > 0, variance, np.nan))
