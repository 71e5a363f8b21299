"""A private PostgreSQL server on the loopback interface, from the Debian package, never as root."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path


class PostgresServer:
    """A running server; `stop` ends it, `restart` ends and starts it again at once."""

    def __init__(self, folder: Path, programs: Path, port: int, user: str | None) -> None:
        self.folder = folder
        self.programs = programs
        self.port = port
        self.user = user

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program of PostgreSQL as the unprivileged user."""
        line = [str(self.programs / words[0]), *words[1:]]
        if self.user is not None:
            line = ["runuser", "-u", self.user, "--", *line]
        return subprocess.run(line, capture_output=True, text=True, check=False, cwd=self.folder, timeout=120)

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Start, stop or restart."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        options += " -c fsync=off -c max_connections=120"
        return self.command(
            "pg_ctl",
            "-D",
            str(self.folder / "data"),
            "-o",
            options,
            "-l",
            str(self.folder / "log"),
            "-w",
            *words,
        )

    def new_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        done = self.command("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "starmill", name)
        assert done.returncode == 0, done.stderr
        return f"postgresql+psycopg://starmill@127.0.0.1:{self.port}/{name}"

    def restart(self) -> None:
        """End all connections at once and start again."""
        done = self.control("-m", "immediate", "restart")
        assert done.returncode == 0, done.stderr + done.stdout

    def stop(self) -> None:
        """End the server."""
        self.control("-m", "immediate", "stop")


def start_postgres(folder: Path) -> PostgresServer | str:
    """Start a server in a folder; return the reason as text when that is impossible."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        return "the Debian package postgresql is not installed"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed (extra 'postgres')"
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        if shutil.which("runuser") is None:
            return "running as root without runuser: PostgreSQL refuses to run as root"
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PostgresServer(folder, programs[-1].parent, port, user)
    made = server.command("initdb", "-D", str(folder / "data"), "-U", "starmill", "-A", "trust", "-E", "UTF8")
    if made.returncode:
        return f"initdb failed: {made.stderr[-300:]}"
    started = server.control("start")
    if started.returncode == 0:
        return server
    log = folder / "log"
    words = log.read_text()[-500:] if log.exists() else started.stdout + started.stderr
    return f"the server did not start: {words}"
