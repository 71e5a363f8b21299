"""The file ``repository.yaml`` in the root of a repository: where the registry is, how files are named."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starmill.errors import ConfigError, InputError, RepositoryError, nearest_name
from starmill.io.config import read_yaml_text
from starmill.repository.layout import CONFIG_NAME, DEFAULT_TEMPLATE, SQLITE_NAME, validate_template
from starmill.repository.store import Store

_FORMAT = 1
_KEYS = ("starmill_repository", "registry", "layout")
_SQLITE = "sqlite"


@dataclass(frozen=True)
class RepositoryConfig:
    """Content of ``repository.yaml``.

    Attributes
    ----------
    registry : str
        ``sqlite`` (the file beside it) or an SQLAlchemy URL without password.
    layout : str
        Path template.
    """

    registry: str = _SQLITE
    layout: str = DEFAULT_TEMPLATE

    def registry_url(self, home: Path) -> str:
        """Return the URL to connect to; the environment variable ``STARMILL_REGISTRY`` overrides the file."""
        override = os.environ.get("STARMILL_REGISTRY")
        if override:
            return override
        if self.registry == _SQLITE:
            return f"sqlite:///{home.absolute() / SQLITE_NAME}"
        return self.registry

    def to_text(self) -> str:
        """YAML text."""
        return (
            "# A starmill repository. The password of a database server belongs into ~/.pgpass or the\n"
            "# environment variable PGPASSWORD, not in here.\n"
            f"starmill_repository: {_FORMAT}\nregistry: {_quote(self.registry)}\nlayout: {_quote(self.layout)}\n"
        )


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def clean_registry_url(url: str | None) -> str:
    """Return a registry URL fit for the file: checked, without password."""
    if url is None or url == _SQLITE:
        return _SQLITE
    import sqlalchemy as sa

    try:
        parsed = sa.engine.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise InputError(f"registry URL is not of the form dialect://...: {url[:40]!r}") from None
    if parsed.get_backend_name() not in {"postgresql", "sqlite"}:
        raise InputError(f"registry URL must be sqlite or postgresql+psycopg, not {parsed.drivername}")
    if parsed.password is not None:
        parsed = parsed._replace(password=None)
    return parsed.render_as_string(hide_password=False)


def read_config(values: dict[str, Any], where: str) -> RepositoryConfig:
    """Check the content of ``repository.yaml``.

    Parameters
    ----------
    values : dict
        As parsed.
    where : str
        For messages.

    Returns
    -------
    config : RepositoryConfig
        Checked.
    """
    for key in values:
        if key not in _KEYS:
            near = nearest_name(str(key), _KEYS)
            raise ConfigError(
                f"unknown key {key!r}" + (f"; did you mean '{near}'?" if near else ""), path=where
            )
    version = values.get("starmill_repository")
    if not isinstance(version, int):
        raise InputError("no repository: the key 'starmill_repository' is missing", path=where)
    if version > _FORMAT:
        raise RepositoryError(
            f"{where}: format {version} was made by a newer starmill; this one knows {_FORMAT}"
        )
    registry, layout = values.get("registry", _SQLITE), values.get("layout", DEFAULT_TEMPLATE)
    if not isinstance(registry, str) or not isinstance(layout, str):
        raise ConfigError("'registry' and 'layout' must be text", path=where)
    return RepositoryConfig(clean_registry_url(registry), validate_template(layout))


def find_root(start: Path) -> Path | None:
    """Return the nearest folder above (or at) a path that is a repository."""
    for folder in [start, *start.absolute().parents]:
        if (folder / CONFIG_NAME).is_file():
            return folder
    return None


def load_config(store: Store) -> RepositoryConfig:
    """Read and check ``repository.yaml`` of a store."""
    where = f"{store.url}/{CONFIG_NAME}"
    text = store.read_text(CONFIG_NAME)
    if text is None:
        raise RepositoryError(
            f"{store.url} is no repository ({CONFIG_NAME} is missing); make one with 'starmill repo init'"
        )
    values = read_yaml_text(text, path=where)
    if not isinstance(values, dict):
        raise InputError("no mapping", path=where)
    return read_config(values, where)
