"""Schema migrations of the registry, run by Alembic."""

from starmill.repository.migrations.upgrade import upgrade_registry

__all__ = ["upgrade_registry"]
