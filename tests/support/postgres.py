"""A PostgreSQL of the tests' own: unprivileged, on a free loopback port, in a temporary folder."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support.ports import free_port

DEBIAN_FOLDER = Path("/usr/lib/postgresql")
"""Debian keeps the programs of each version apart, and off PATH."""

START_SECONDS = 60
STOP_SECONDS = 20
"""A clean stop that takes longer is made an unclean one."""


def find_programs() -> Path:
    """The folder with `initdb` and `postgres`. Fails the test when there is none."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    versions = sorted(DEBIAN_FOLDER.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        pytest.fail(
            "These tests start a PostgreSQL server: `apt-get install postgresql`, or `make postgresql`."
        )
    return versions[-1].parent


class PostgreSQL:
    """A server that tests may stop and start again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = find_programs()
        # The server refuses to run as root.
        self.user = "postgres" if os.getuid() == 0 else getpass.getuser()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._num_databases = 0

    def initialise(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, self.user)
        command = ["initdb", "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]
        command = [
            str(self.programs / command[0]),
            *command[1:],
            "--locale=C",
            "-D",
            str(self.folder / "data"),
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._identity())

    def start(self) -> None:
        """Returns when it answers."""
        deadline = time.monotonic() + START_SECONDS
        self._spawn()
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL does not start:\n{(self.folder / 'log').read_text()[-2000:]}")
                if not self._is_running():
                    self._spawn()
                time.sleep(0.05)

    def _spawn(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 100,
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **self._identity()
            )

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends every connection at once, as a failing machine would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(timeout=START_SECONDS)
            self._process = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stopped meanwhile; running again afterwards, whatever happened, as other tests need it."""
        try:
            self.stop()
            yield
        finally:
            self.start()

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._num_databases += 1
        name = f"test_{self._num_databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def _identity(self) -> dict[str, object]:
        if os.getuid() != 0:
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    # Not below pytest's own folder, which only the user of the tests may enter.
    folder = Path(tempfile.mkdtemp(prefix="steer-postgresql-"))
    server = PostgreSQL(folder)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
