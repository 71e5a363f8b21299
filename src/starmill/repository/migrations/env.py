"""Run by Alembic: connects to the database of the configuration and runs the migrations in one transaction."""

from alembic import context

from starmill.repository.registry import make_engine
from starmill.repository.schema import metadata


def run_migrations() -> None:
    """Run the migrations that the database lacks."""
    engine = make_engine(context.config.get_main_option("sqlalchemy.url") or "")
    is_sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        if is_sqlite:  # its driver begins no transaction for changes of tables
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            context.configure(connection=connection, target_metadata=metadata)
            with context.begin_transaction():
                context.run_migrations()
            if is_sqlite:
                connection.exec_driver_sql("COMMIT")
            connection.commit()
        except BaseException:
            if is_sqlite:
                connection.exec_driver_sql("ROLLBACK")
            raise
        finally:
            engine.dispose()


run_migrations()
