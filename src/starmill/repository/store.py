"""Where the files of a repository are kept: a folder, staged and renamed so that no half file is ever seen."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from starmill.errors import InputError, RepositoryError
from starmill.io.checksums import file_checksum
from starmill.repository import crash_points
from starmill.repository.layout import PRIVATE_FOLDER, RUNS_FOLDER, check_relative

_BLOCK = 1 << 20
_SYNC_THREADS = 16


class Store(Protocol):
    """What the repository needs of a place for files; paths are relative with forward slashes."""

    url: str
    is_local: bool
    root: Path

    def initialise(self, config_name: str) -> None:
        """Make the place; refuse one that holds anything."""

    def read_text(self, path: str) -> str | None:
        """Content of a small text file; None when it does not exist."""

    def write_text(self, path: str, text: str) -> None:
        """Write a small text file, complete or not at all."""

    def staging_folder(self, writer: str) -> Path:
        """Return a local folder in which files of one writer are prepared."""

    def deliver(self, staged: Path, writer: str) -> str:
        """Bring a prepared file to where `publish` can take it; returns its token."""

    def discard(self, token: str) -> None:
        """Delete a delivered file that nobody wants."""

    def has_token(self, token: str) -> bool:
        """Tell whether a delivered file still waits for its final name."""

    def publish(self, moves: Iterable[tuple[str, str]]) -> None:
        """Give delivered files their final names, durably; pairs already done are left alone."""

    def reading(self, path: str, *, linked: bool = False) -> AbstractContextManager[Path]:
        """Context that gives a local path of the file."""

    def exists(self, path: str) -> bool:
        """Tell whether the file is there."""

    def size(self, path: str) -> int:
        """Length of the file, byte."""

    def checksum(self, path: str) -> str:
        """SHA-256 of the file."""

    def remove(self, path: str) -> None:
        """Delete a file; a missing one is no error."""

    def set_aside(self, path: str) -> str:
        """Take a file out of the data sets without deleting it; returns where it is now."""

    def files(self) -> Iterator[tuple[str, int]]:
        """All files of data sets: relative path and size, byte."""

    def writers_with_staging(self) -> list[str]:
        """Names of the writers that have a staging folder."""

    def clear_staging(self, writer: str) -> None:
        """Delete what a writer left unfinished."""

    def keep_journal(self, writer: str) -> None:
        """Bring the closed journal of a writer to the files it describes, if it is elsewhere."""

    def fetch_journals(self) -> None:
        """Bring all kept journals to this machine, if they are elsewhere."""


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Sequence[str]) -> None:
    """Make the content of files durable; several at once, because file systems commit them together."""
    if len(paths) < 3:
        _sync_some(paths)
        return
    count = min(_SYNC_THREADS, len(paths))
    with ThreadPoolExecutor(count) as threads:
        for _ in threads.map(_sync_some, [paths[start::count] for start in range(count)]):
            pass


def _sync_some(paths: Sequence[str]) -> None:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # renamed by an earlier attempt
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_store(root: str | Path) -> Store:
    """Return the store of a repository: a folder, or the URL of an object store (``s3://bucket/name``)."""
    if "://" in str(root):
        from starmill.repository.object_store import ObjectStore

        return ObjectStore(str(root))
    return _local_store(str(root))


@functools.lru_cache(maxsize=16)
def _local_store(root: str) -> LocalStore:
    return LocalStore(Path(root))


class LocalStore:
    """Files in a folder on a local or shared file system.

    Parameters
    ----------
    root : Path
        The repository's folder.
    """

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.url = str(self.root)
        self._real_root = os.path.realpath(self.root)
        self._checked: set[Path] = set()
        self._staging: dict[str, Path] = {}

    def initialise(self, config_name: str) -> None:
        """Make the folder; refuse one that holds anything."""
        if (self.root / config_name).exists():
            raise RepositoryError(f"{self.root} is a repository already")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if any(
                entry.name != PRIVATE_FOLDER and not _is_unfinished(entry) for entry in self.root.iterdir()
            ):
                raise RepositoryError(f"{self.root} is not empty")
            (self.root / PRIVATE_FOLDER).mkdir(exist_ok=True)
            for left in self.root.glob("registry.sqlite3*"):
                left.unlink()
        except NotADirectoryError as error:
            raise RepositoryError(f"{self.root} is no folder") from error
        except PermissionError as error:
            raise RepositoryError(f"cannot make {self.root}: {error.strerror}") from error

    def read_text(self, path: str) -> str | None:
        """Content of a small text file; None when it does not exist."""
        try:
            return (self.root / path).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise InputError("not a text file", path=self.root / path) from error

    def write_text(self, path: str, text: str) -> None:
        """Write a small text file, complete or not at all."""
        from starmill.io.atomic import atomic_write_text

        atomic_write_text(self.root / path, text)

    def staging_folder(self, writer: str) -> Path:
        """Return a folder on the same file system as the final names."""
        folder = self._staging.get(writer)
        if folder is None or not folder.is_dir():
            folder = self._staging[writer] = self.root / PRIVATE_FOLDER / "staging" / writer
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def deliver(self, staged: Path, writer: str) -> str:
        """Return the token of a prepared file: its path. It is made durable by `publish`, many at a time."""
        crash_points.reach("store: file staged")
        return f"{PRIVATE_FOLDER}/staging/{writer}/{staged.name}"

    def publish(self, moves: Iterable[tuple[str, str]]) -> None:
        """Make staged files durable, rename them to their final names, and make the renames durable."""
        folders: dict[str, Path] = {}
        pairs = list(moves)
        crash_points.reach("store: before sync of staged files")
        sync_files([f"{self.root}/{token}" for token, _ in pairs])
        crash_points.reach("store: after sync of staged files")
        for token, path in pairs:
            name, _, _ = check_relative(path).rpartition("/")
            if name not in folders:
                folders[name] = self.root / name
                self._prepare_folder(folders[name])
            crash_points.reach("store: before rename")
            final = f"{self.root}/{path}"
            try:
                os.replace(f"{self.root}/{token}", final)  # noqa: PTH105  thousands of them
            except FileNotFoundError:
                if not Path(final).exists():
                    raise
            crash_points.reach("store: after rename")
        for folder in sorted(folders.values()):
            sync_folder(folder)
        crash_points.reach("store: after sync of folders")

    def _prepare_folder(self, folder: Path) -> None:
        if folder in self._checked and folder.is_dir():
            return
        made = []
        probe = folder
        while not probe.exists():
            made.append(probe)
            probe = probe.parent
        self._require_inside(probe)
        folder.mkdir(parents=True, exist_ok=True)
        for new in made:
            sync_folder(new.parent)
        self._checked.add(folder)

    def _require_inside(self, path: Path) -> None:
        real = os.path.realpath(path)
        if real != self._real_root and not real.startswith(self._real_root + os.sep):
            raise RepositoryError(
                f"{path} leads through a symbolic link to {real}, outside of the repository"
            )

    def absolute(self, path: str) -> Path:
        """Return the absolute path of a file of this store."""
        return self.root / check_relative(path)

    @contextmanager
    def reading(self, path: str, *, linked: bool = False) -> Iterator[Path]:
        """Give the path of a file; one that is a link out of the root is refused unless ingested as such."""
        absolute = self.absolute(path)
        if not linked:
            self._require_inside(absolute)
        yield absolute

    def exists(self, path: str) -> bool:
        """Tell whether the file is there (a dangling link is not)."""
        return self.absolute(path).is_file()

    def discard(self, token: str) -> None:
        """Delete a delivered file that nobody wants."""
        (self.root / check_relative(token)).unlink(missing_ok=True)

    def has_token(self, token: str) -> bool:
        """Tell whether a delivered file still waits for its final name."""
        return (self.root / check_relative(token)).is_file()

    def size(self, path: str) -> int:
        """Length of the file, byte."""
        return self.absolute(path).stat().st_size

    def checksum(self, path: str) -> str:
        """SHA-256 of the file."""
        return file_checksum(self.absolute(path))

    def remove(self, path: str) -> None:
        """Delete a file and the folders that became empty."""
        final = self.absolute(path)
        crash_points.reach("store: before delete")
        final.unlink(missing_ok=True)
        crash_points.reach("store: after delete")
        self._remove_empty_folders(final)

    def _remove_empty_folders(self, final: Path) -> None:
        for parent in final.parents:
            if parent == self.root / RUNS_FOLDER or self.root not in parent.parents:
                break
            try:
                parent.rmdir()
            except OSError:  # not empty, or another process was faster
                break
            self._checked.discard(parent)

    def set_aside(self, path: str) -> str:
        """Take a file out of ``runs/`` without deleting it; returns where it is now."""
        kept = name_aside(lambda name: os.path.lexists(self.root / name), path)
        (self.root / kept).parent.mkdir(parents=True, exist_ok=True)
        self.absolute(path).replace(self.root / kept)
        self._remove_empty_folders(self.absolute(path))
        return kept

    def files(self) -> Iterator[tuple[str, int]]:
        """All files below ``runs/``: relative path and size, byte (-1 for a dangling link)."""
        top = self.root / RUNS_FOLDER
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                full = Path(folder) / name
                try:
                    size = full.stat().st_size
                except OSError:
                    size = -1
                yield full.relative_to(self.root).as_posix(), size

    def writers_with_staging(self) -> list[str]:
        """Names of the writers that have a staging folder."""
        folder = self.root / PRIVATE_FOLDER / "staging"
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def keep_journal(self, writer: str) -> None:
        """Leave the journal where it is: beside the files."""

    def fetch_journals(self) -> None:
        """Leave the journals where they are: beside the files."""

    def clear_staging(self, writer: str) -> None:
        """Delete what a writer left unfinished."""
        shutil.rmtree(self.root / PRIVATE_FOLDER / "staging" / writer, ignore_errors=True)


def name_aside(exists: Callable[[str], bool], path: str) -> str:
    """Return a name for a file that is set aside, at which nothing is yet."""
    names = (f"{PRIVATE_FOLDER}/set_aside/{number}/{check_relative(path)}" for number in itertools.count(1))
    return next(name for name in names if not exists(name))


def _is_unfinished(entry: Path) -> bool:
    """Tell whether a file is what a killed `create` left: a registry without a configuration."""
    from starmill.io.atomic import TEMPORARY_MARK

    return entry.name.startswith("registry.sqlite3") or TEMPORARY_MARK in entry.name


def copy_file(source: Path, target: Path) -> str:
    """Copy a file with its mode and times, and return the SHA-256 of what was copied.

    Parameters
    ----------
    source, target : Path
        Existing file; new file.

    Returns
    -------
    checksum : str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    try:
        reader = os.open(source, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=source) from error
    try:
        state = os.fstat(reader)
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            while block := _read_block(reader, source):
                crash_points.reach("store: before write of a block")
                digest.update(block)
                _write_whole(writer, block)
            os.fchmod(writer, stat.S_IMODE(state.st_mode))
            os.utime(writer, ns=(state.st_atime_ns, state.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    return digest.hexdigest()


def _read_block(descriptor: int, source: Path) -> bytes:
    try:
        return os.read(descriptor, _BLOCK)
    except OSError as error:  # a folder, or a disk that fails
        raise InputError(f"cannot be read: {error.strerror}", path=source) from error


def _write_whole(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
