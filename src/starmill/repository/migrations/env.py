"""Run by Alembic: connects to the database of the configuration and runs the migrations in one transaction."""

from alembic import context

from starmill.repository.registry import make_engine
from starmill.repository.schema import metadata


def run_migrations() -> None:
    """Run the migrations that the database lacks."""
    engine = make_engine(context.config.get_main_option("sqlalchemy.url") or "")
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


run_migrations()
