"""Brings a registry to the newest schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from starmill.errors import RepositoryError
from starmill.repository import schema
from starmill.repository.registry import make_engine


def alembic_config(url: str) -> Any:
    """Return an Alembic configuration for the migrations of this package and a database."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade_registry(url: str) -> tuple[str | None, str]:
    """Run all migrations that a registry lacks.

    Parameters
    ----------
    url : str
        Of the database.

    Returns
    -------
    before, after : str
        Schema versions; None when the database was empty.
    """
    from alembic import command

    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            before = None
            if sa.inspect(connection).has_table("alembic_version"):
                before = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    finally:
        engine.dispose()
    if before is not None and before not in schema.KNOWN_VERSIONS:
        raise RepositoryError(f"registry has schema {before}, made by a newer starmill; upgrade starmill")
    command.upgrade(alembic_config(url), "head")
    return before, schema.SCHEMA_VERSION
