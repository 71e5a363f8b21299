"""Files of a repository in an object store (S3 or anything else that fsspec knows).

Objects appear complete or not at all, so that nothing needs renaming on the way up; a delivered file lies under
``.starmill/staging`` until its rows are committed and is then copied to its final name inside the store. A
local folder of the user keeps the journal, what is being written, and copies of what has been read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starmill.errors import ConfigError, InputError, RepositoryError
from starmill.repository import crash_points
from starmill.repository.layout import PRIVATE_FOLDER, RUNS_FOLDER, check_relative
from starmill.repository.store import name_aside

_PARALLEL_MOVES = 16


def state_folder(url: str) -> Path:
    """Return the local folder of this user that belongs to a repository in an object store."""
    base = (
        os.environ.get("STARMILL_STATE")
        or os.environ.get("XDG_STATE_HOME")
        or str(Path.home() / ".local/state")
    )
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(base) / "starmill" / digest


class ObjectStore:
    """Objects below a URL.

    Parameters
    ----------
    url : str
        As ``s3://bucket/name``. Endpoint and credentials come from the usual places of fsspec and its drivers
        (environment, configuration files), never from the repository.
    """

    is_local = False

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise ConfigError("fsspec is not installed; install starmill[s3]") from error
        self.url = url.rstrip("/")
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise InputError(f"cannot open the object store {url}: {error}") from error
        self.root = state_folder(self.url)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / PRIVATE_FOLDER).mkdir(exist_ok=True)
        self._lock = threading.Lock()

    def _key(self, path: str) -> str:
        return f"{self._base}/{check_relative(path)}"

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Turn the errors of drivers, which are of many types, into ours."""
        try:
            yield
        except (FileNotFoundError, RepositoryError, InputError):
            raise
        except Exception as error:
            raise RepositoryError(f"{self.url}/{path}: {type(error).__name__}: {error}") from error

    def initialise(self, config_name: str) -> None:
        """Refuse a place that holds anything."""
        with self._errors(""):
            self._fs.invalidate_cache()
            if self._fs.exists(self._key(config_name)):
                raise RepositoryError(f"{self.url} is a repository already")
            if self._fs.exists(self._base) and self._fs.ls(self._base):
                raise RepositoryError(f"{self.url} is not empty")

    def read_text(self, path: str) -> str | None:
        """Content of a small text object; None when it does not exist."""
        try:
            with self._errors(path):
                return str(self._fs.cat_file(self._key(path)).decode("utf-8"))
        except FileNotFoundError:
            return None

    def write_text(self, path: str, text: str) -> None:
        """Write a small text object."""
        with self._errors(path):
            self._fs.pipe_file(self._key(path), text.encode())

    def staging_folder(self, writer: str) -> Path:
        """Return a local folder."""
        folder = self.root / PRIVATE_FOLDER / "staging" / writer
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def deliver(self, staged: Path, writer: str) -> str:
        """Upload a prepared file; its token is a key in the staging area of the store."""
        token = f"{PRIVATE_FOLDER}/staging/{writer}/{staged.name}"
        crash_points.reach("object store: before upload")
        with self._errors(token):
            self._fs.put_file(str(staged), self._key(token))
        crash_points.reach("object store: after upload")
        staged.unlink(missing_ok=True)
        return token

    def discard(self, token: str) -> None:
        """Delete a delivered file that nobody wants."""
        self.remove(token)

    def has_token(self, token: str) -> bool:
        """Tell whether a delivered file still waits for its final name."""
        return self.exists(token)

    def publish(self, moves: Iterable[tuple[str, str]]) -> None:
        """Copy delivered files to their final names inside the store, then delete the delivered ones."""
        pairs = list(moves)
        if not pairs:
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(_PARALLEL_MOVES, len(pairs))) as threads:
            for _ in threads.map(self._publish_one, pairs):
                pass
        crash_points.reach("object store: after publishing")

    def _publish_one(self, pair: tuple[str, str]) -> None:
        token, path = pair
        with self._errors(path):
            try:
                self._fs.cp_file(self._key(token), self._key(path))
            except FileNotFoundError:
                if not self.exists(path):
                    raise RepositoryError(f"{self.url}/{token}: the delivered file has gone") from None
            self._invalidate(path)
        self.remove(token)

    def _invalidate(self, path: str) -> None:
        with self._lock:
            self._fs.invalidate_cache(self._key(path).rpartition("/")[0])

    @contextmanager
    def reading(self, path: str, *, linked: bool = False) -> Iterator[Path]:  # noqa: ARG002
        """Give a local copy of the object for the time of the block."""
        folder = self.root / PRIVATE_FOLDER / "read"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            target = Path(temporary) / path.rpartition("/")[2]
            with self._errors(path):
                self._fs.get_file(self._key(path), str(target))
            yield target

    def exists(self, path: str) -> bool:
        """Tell whether the object is there."""
        with self._errors(path):
            self._invalidate(path)
            return bool(self._fs.isfile(self._key(path)))

    def size(self, path: str) -> int:
        """Length of the object, byte."""
        with self._errors(path):
            return int(self._fs.size(self._key(path)))

    def checksum(self, path: str) -> str:
        """SHA-256 of the object."""
        digest = hashlib.sha256()
        with self._errors(path), self._fs.open(self._key(path), "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def remove(self, path: str) -> None:
        """Delete an object; a missing one is no error."""
        with self._errors(path), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._key(path))
        self._invalidate(path)

    def set_aside(self, path: str) -> str:
        """Copy an object out of ``runs/`` and delete it there; returns where it is now."""
        kept = name_aside(self.exists, path)
        with self._errors(path):
            self._fs.cp_file(self._key(path), self._key(kept))
        self.remove(path)
        return kept

    def files(self) -> Iterator[tuple[str, int]]:
        """All objects below ``runs/``: relative path and size, byte."""
        with self._errors(RUNS_FOLDER):
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.find(f"{self._base}/{RUNS_FOLDER}", detail=True)
        start = len(self._base) + 1
        for key in sorted(found):
            yield key[start:], int(found[key]["size"])

    def writers_with_staging(self) -> list[str]:
        """Names of the writers that have a local staging folder."""
        folder = self.root / PRIVATE_FOLDER / "staging"
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def clear_staging(self, writer: str) -> None:
        """Delete what a writer left unfinished, here and in the store."""
        shutil.rmtree(self.root / PRIVATE_FOLDER / "staging" / writer, ignore_errors=True)
        with self._errors("staging"), contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._base}/{PRIVATE_FOLDER}/staging/{writer}", recursive=True)
        self._fs.invalidate_cache()

    def keep_journal(self, writer: str) -> None:
        """Upload the closed journal of a writer."""
        local = self.root / PRIVATE_FOLDER / "journal" / f"{writer}.jsonl"
        if local.is_file():
            with self._errors("journal"):
                self._fs.put_file(str(local), self._key(f"{PRIVATE_FOLDER}/journal/{local.name}"))

    def fetch_journals(self) -> None:
        """Download the journals that other machines have kept."""
        folder = self.root / PRIVATE_FOLDER / "journal"
        folder.mkdir(parents=True, exist_ok=True)
        with self._errors("journal"):
            self._fs.invalidate_cache()
            for key in self._fs.find(f"{self._base}/{PRIVATE_FOLDER}/journal"):
                local = folder / str(key).rpartition("/")[2]
                if not local.exists():
                    self._fs.get_file(key, str(local))

    def absolute(self, path: str) -> Path:
        """Object stores have no local paths."""
        raise InputError(f"{self.url}/{path} has no local path")
