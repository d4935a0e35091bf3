"""`steer-server adapters …`: adapters of a running server; those for packages here are in
`package_commands`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, NoReturn

import typer

from steer_server.errors import SteerError

if TYPE_CHECKING:
    from steer_server.catalogue.admin_client import AdminClient

commands = typer.Typer(no_args_is_help=True, help="Adapters of a running server: push, activate, roll back…")

Url = Annotated[str, typer.Option(help="The server, such as http://127.0.0.1:8000")]
Key = Annotated[
    str,
    typer.Option(
        envvar="STEER_ADMIN_KEY", help="Operator key. On the server's own machine it may do without one."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON, and nothing else.")]
Name = Annotated[str, typer.Argument(help="The adapter's name.")]
Title = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="One version of an adapter.")]
Package = Annotated[Path, typer.Argument(help="Package folder, or a tar, tar.gz or zip of one.", exists=True)]
LOOPBACK = "http://127.0.0.1:8000"


@contextmanager
def asking(url: str, key: str) -> Iterator[AdminClient]:
    """A client whose failures end the command with one message and exit code 1."""
    from steer_server.catalogue.admin_client import AdminClient, AdminFailed

    with failing_with_a_message():
        try:
            with AdminClient(url, key) as client:
                yield client
        except AdminFailed as error:
            _fail(error)


@contextmanager
def failing_with_a_message() -> Iterator[None]:
    """Our own errors end the command with one message and exit code 1."""
    try:
        yield
    except (SteerError, OSError) as error:
        _fail(error)


@commands.command("list")
def list_(url: Url = LOOPBACK, key: Key = "", json: Json = False) -> None:
    """Every version: its state, what it carries, its signature, and what is wrong with it."""
    from steer_server.catalogue import listing

    with asking(url, key) as server:
        body = server.get("adapters")
    if json:
        listing.print_json(body)
    else:
        listing.print_versions(body["data"])


@commands.command("show")
def show(name: Name, url: Url = LOOPBACK, key: Key = "", json: Json = False) -> None:
    """An adapter's versions, where they come from, and which was active when."""
    from steer_server.catalogue import listing

    with asking(url, key) as server:
        body = server.get("adapters", name)
    if json:
        listing.print_json(body)
        return
    for version in body["versions"]:
        listing.print_fields(listing.fields_of(version))
        print()
    listing.print_moves(body["history"])


@commands.command("push")
def push(
    package: Package,
    activate: Annotated[bool, typer.Option("--activate", help="And serve it, if it passes.")] = False,
    url: Url = LOOPBACK,
    key: Key = "",
    json: Json = False,
) -> None:
    """Send a package. The server checks it, runs it once and keeps it; nobody is served with it yet."""
    with asking(url, key) as server, _opened(package) as (archive, size_bytes):
        version = server.push(archive, size_bytes, package.resolve().name, activate=activate)
    _print_version(version, json)


@commands.command("activate")
def activate(title: Title, url: Url = LOOPBACK, key: Key = "", json: Json = False) -> None:
    """Serve this version under its name from now on, in place of the one that is active."""
    name, version = _parts(title)
    with asking(url, key) as server:
        body = server.post("adapters", name, "versions", version, "activate")
    _print_version(body, json)


@commands.command("rollback")
def rollback(name: Name, url: Url = LOOPBACK, key: Key = "", json: Json = False) -> None:
    """Serve the version that was active before."""
    with asking(url, key) as server:
        body = server.post("adapters", name, "rollback")
    _print_version(body, json)


@commands.command("deactivate")
def deactivate(name: Name, url: Url = LOOPBACK, key: Key = "", json: Json = False) -> None:
    """Serve no version of this name; `rollback` brings the last one back."""
    from steer_server.catalogue import listing

    with asking(url, key) as server:
        body = server.post("adapters", name, "deactivate")
    if json:
        listing.print_json(body)
    elif body["deactivated"]:
        print(f"{name}@{body['deactivated']} is not active any more")
    else:
        print(f"no version of {name} was active")


@commands.command("quarantine")
def quarantine(
    title: Title,
    why: Annotated[str, typer.Option(help="For whoever asks later.")] = "",
    abort: Annotated[
        bool, typer.Option("--abort", help="End running requests with an error; without it they finish.")
    ] = False,
    url: Url = LOOPBACK,
    key: Key = "",
    json: Json = False,
) -> None:
    """Refuse this version to new requests at once, until it is released."""
    name, version = _parts(title)
    with asking(url, key) as server:
        answer = server.post(
            "adapters", name, "versions", version, "quarantine", body={"detail": why, "abort": abort}
        )
    _print_version(answer, json)


@commands.command("release")
def release(title: Title, url: Url = LOOPBACK, key: Key = "", json: Json = False) -> None:
    """Take a version out of quarantine. It is checked anew, and not active."""
    name, version = _parts(title)
    with asking(url, key) as server:
        body = server.post("adapters", name, "versions", version, "release")
    _print_version(body, json)


@commands.command("remove")
def remove(
    title: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="One version, or all of a name.")],
    url: Url = LOOPBACK,
    key: Key = "",
    json: Json = False,
) -> None:
    """Delete one version, or a name with all of its versions, when the last request with it has ended."""
    from steer_server.catalogue import listing

    name, _, version = title.partition("@")
    with asking(url, key) as server:
        body = server.delete("adapters", name, version=version or None)
    if json:
        listing.print_json(body)
    else:
        print(f"removed {', '.join(body['removed'])}")


@commands.command("audit")
def audit(
    name: Annotated[str | None, typer.Option(help="Only acts on this adapter.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    before_id: Annotated[int | None, typer.Option(help="Only older ones than this.", min=1)] = None,
    url: Url = LOOPBACK,
    key: Key = "",
    json: Json = False,
) -> None:
    """Who did what, newest first."""
    from steer_server.catalogue import listing

    with asking(url, key) as server:
        body = server.get("audit", name=name, limit=limit, before_id=before_id)
    if json:
        listing.print_json(body)
    else:
        listing.print_acts(body["data"])


@contextmanager
def _opened(package: Path) -> Iterator[tuple[IO[bytes], int]]:
    """The archive to send and its size; a folder is packed into a temporary file first."""
    from steer_server.catalogue.package import pack

    if not package.is_dir():
        with package.open("rb") as archive:
            yield archive, package.stat().st_size
        return
    with tempfile.TemporaryFile() as packed:
        for piece in pack(package):
            packed.write(piece)
        size_bytes = packed.tell()
        packed.seek(0)
        yield packed, size_bytes


def _parts(title: str) -> tuple[str, str]:
    name, _, version = title.partition("@")
    if not name or not version:
        raise typer.BadParameter(f"{title!r} is not NAME@VERSION, such as confucian@1.0.0")
    return name, version


def _print_version(version: dict[str, object], as_json: bool) -> None:
    from steer_server.catalogue import listing

    if as_json:
        listing.print_json(version)
    else:
        listing.print_version(version)


def _fail(error: Exception) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise typer.Exit(1) from error
