"""The registry: one relational database that knows every data set of a repository.

SQLite in write-ahead mode by default, PostgreSQL by URL; the same SQLAlchemy Core statements for both, values
always as bound parameters. Every change is one transaction of a function that may run twice: a lost connection
or a lock held by another process is waited for, and a commit whose outcome is unknown is repeated safely.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from starmill.errors import InputError, RepositoryError
from starmill.repository import crash_points, schema

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds a writer waits for a lock, and for a database server to come back.
LOCK_TIMEOUT = 120.0
RECONNECT_TIMEOUT = 120.0


def make_engine(url: str, *, read_only: bool = False) -> Engine:
    """Open a database by URL (``sqlite:////path`` or ``postgresql+psycopg://...``).

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    read_only : bool
        Open an SQLite file so that nothing can be written, as on a read-only disk.

    Returns
    -------
    engine : Engine
        With SQLite set to write-ahead logging and full synchronisation.
    """
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        raise InputError(f"registry URL is not of the form dialect://...: {url[:40]!r}") from None
    if parsed.get_backend_name() == "sqlite":
        return _make_sqlite_engine(parsed, read_only)
    if parsed.get_backend_name() != "postgresql":
        raise InputError(f"registry URL must be sqlite or postgresql+psycopg, not {parsed.drivername}")
    return sa.create_engine(parsed, pool_pre_ping=True, pool_size=4, connect_args={"connect_timeout": 10})


def _make_sqlite_engine(url: sa.URL, read_only: bool) -> Engine:
    arguments = {"timeout": LOCK_TIMEOUT, "check_same_thread": False}
    if read_only:
        path = Path(url.database or "")
        query = {"mode": "ro", "uri": "true"}
        log_file = path.with_name(path.name + "-wal")
        if not can_write(path.parent) and not (log_file.exists() and log_file.stat().st_size):
            query["immutable"] = "1"  # on a read-only disk SQLite cannot make its companion files
        url = url.set(database=f"file:{quote(str(path))}", query=query)
    engine = sa.create_engine(url, connect_args=arguments)

    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, IMMEDIATE for writers
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT * 1000)}")
        if not read_only:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA cache_size = -32000")
        cursor.close()

    sa.event.listen(engine, "connect", set_pragmas)
    return engine


def can_write(folder: Path) -> bool:
    """Tell whether this process may make files in a folder."""
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


class Registry:
    """Connection to the database of one repository.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    read_only : bool
        Refuse every change.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self.read_only = read_only
        self.engine = make_engine(url, read_only=read_only)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._write_lock = threading.RLock()

    def create(self) -> None:
        """Make the tables in an empty database; refuse one that already holds a registry."""
        try:
            with self.engine.begin() as connection:
                if sa.inspect(connection).has_table("dataset"):
                    raise RepositoryError(f"database {self.display_url} already holds a registry")
                schema.metadata.create_all(connection)
                connection.execute(
                    sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
                )
                connection.execute(
                    sa.text("INSERT INTO alembic_version VALUES (:version)"),
                    {"version": schema.SCHEMA_VERSION},
                )
        except sa.exc.DBAPIError as error:
            raise RepositoryError(
                f"cannot make a registry at {self.display_url}: {_reason(error)}"
            ) from error

    def check_version(self) -> None:
        """Raise `RepositoryError` unless the tables have the version this package knows."""
        version = self.version()
        if version is None:
            raise RepositoryError(
                f"{self.display_url} holds no registry; run 'starmill repo init' or 'rebuild'"
            )
        if version not in schema.KNOWN_VERSIONS:
            raise RepositoryError(
                f"registry {self.display_url} has schema {version}, made by a newer starmill; this one knows up"
                f" to {schema.SCHEMA_VERSION}: upgrade starmill"
            )
        if version != schema.SCHEMA_VERSION:
            raise RepositoryError(
                f"registry {self.display_url} has schema {version}, this starmill needs {schema.SCHEMA_VERSION}:"
                " run 'starmill repo upgrade'"
            )

    def version(self) -> str | None:
        """Return the schema version of the database, or None when it holds no registry."""
        try:
            with self.read() as connection:
                if not sa.inspect(connection).has_table("alembic_version"):
                    return None
                return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        except sa.exc.DBAPIError as error:
            lost = any(words in _reason(error) for words in ("malformed", "not a database", "unable to open"))
            hint = (
                " ('starmill repo rebuild' makes a lost or damaged one anew from the files)" if lost else ""
            )
            raise RepositoryError(
                f"cannot read the registry {self.display_url}: {_reason(error)}{hint}"
            ) from error

    @property
    def display_url(self) -> str:
        """The URL without a password."""
        return sa.engine.make_url(self.url).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection for reading; nothing done on it is kept."""
        with self.engine.connect() as connection:
            yield connection

    def fetch(self, statement: sa.Executable, parameters: Any = None) -> Sequence[sa.Row[Any]]:
        """Run a query and return all rows, waiting out a restart of the database server."""
        return self._with_retries(lambda: self._fetch_once(statement, parameters), "query")

    def _fetch_once(self, statement: sa.Executable, parameters: Any) -> Sequence[sa.Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(statement, parameters).fetchall()

    def change(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in one write transaction and commit.

        Parameters
        ----------
        function : callable
            Takes the connection. It may be called again after a lost connection, also when the first commit
            did arrive: it must give the same end state when run twice.

        Returns
        -------
        result : object
            Whatever the function returned.
        """
        if self.read_only:
            raise RepositoryError(f"registry {self.display_url} is open for reading only")
        with self._write_lock:
            return self._with_retries(lambda: self._change_once(function), "change")

    def _change_once(self, function: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                result = function(connection)
                crash_points.reach("registry: before commit")
                if self.is_sqlite:
                    connection.exec_driver_sql("COMMIT")
                connection.commit()
            except BaseException:
                if self.is_sqlite and connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                    connection.exec_driver_sql("ROLLBACK")
                raise
        crash_points.reach("registry: after commit")
        return result

    def _with_retries(self, action: Callable[[], T], what: str) -> T:
        deadline = time.monotonic() + RECONNECT_TIMEOUT
        pause = 0.05
        while True:
            try:
                return action()
            except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError) as error:
                if not self._is_transient(error) or time.monotonic() > deadline:
                    raise RepositoryError(f"registry {what} failed: {_reason(error)}") from error
                log.warning("registry %s is repeated after: %s", what, _reason(error))
                time.sleep(pause * (0.5 + random.random()))
                pause = min(2.0, 2 * pause)
            except sa.exc.DatabaseError as error:
                raise RepositoryError(f"registry {what} failed: {_reason(error)}") from error

    def _is_transient(self, error: sa.exc.DBAPIError) -> bool:
        """Tell whether waiting may help: a busy database, a server that restarts, a deadlock."""
        text = str(error.orig).lower()
        if self.is_sqlite:
            return "locked" in text or "busy" in text
        state = getattr(error.orig, "sqlstate", None) or ""
        # classes of SQLSTATE: 08 connection, 40 rollback (deadlock, serialisation), 57P server going down,
        # 53 out of resources; no state at all: the connection broke
        return not state or state[:2] in {"08", "40", "53"} or state.startswith("57P")

    def insert_missing(self, connection: Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows, leaving alone those whose key exists already."""
        if rows:
            connection.execute(self.upsert(table).on_conflict_do_nothing(), rows)

    def upsert(self, table: sa.Table) -> Any:
        """Return an INSERT of the database's own dialect, which knows ``on_conflict_*``."""
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
        return insert(table)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _reason(error: sa.exc.DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
