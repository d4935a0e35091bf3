"""`steer-server keys …`: application and operator keys of a running server."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from steer_server.catalogue.commands import LOOPBACK, Json, Key, Url, asking

commands = typer.Typer(no_args_is_help=True, help="Keys of a running server, and what they may do.")


@commands.command("create")
def create(
    label: Annotated[str, typer.Argument(help="Whom or what the key is for.")],
    role: Annotated[
        Literal["application", "operator"], typer.Option(help="An operator may administer.")
    ] = "application",
    culture: Annotated[list[str] | None, typer.Option(help="Only these cultures; repeatable.")] = None,
    axis: Annotated[list[str] | None, typer.Option(help="Only these value axes; repeatable.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Most requests at one time.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="With time zone, such as 2030-01-01T00:00:00Z")
    ] = None,
    url: Url = LOOPBACK,
    key: Key = "",
    json: Json = False,
) -> None:
    """Make a key and print its secret, which nobody can read again.

    From the first application key on, the server refuses requests without a key.
    """
    from steer_server.catalogue import listing

    limits = {
        "cultures": culture or None,
        "axes": axis or None,
        "requests_per_minute": requests_per_minute,
        "concurrency": concurrency,
        "expires_at": expires_at,
    }
    given = {name: limit for name, limit in limits.items() if limit is not None}
    with asking(url, key) as server:
        made = server.post("keys", body={"label": label, "role": role, "limits": given})
    if json:
        listing.print_json(made)
    else:
        print(made["secret"])
        print(f"{made['id']}: the secret is not shown again", file=sys.stderr)


@commands.command("list")
def list_(url: Url = LOOPBACK, key: Key = "", json: Json = False) -> None:
    """Every key without its secret, revoked ones too."""
    from steer_server.catalogue import listing

    with asking(url, key) as server:
        body = server.get("keys")
    if json:
        listing.print_json(body)
    else:
        listing.print_keys(body["data"])


@commands.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `list` shows it.")],
    url: Url = LOOPBACK,
    key: Key = "",
    json: Json = False,
) -> None:
    """Refuse a key from now on. Its running requests finish."""
    from steer_server.catalogue import listing

    with asking(url, key) as server:
        body = server.delete("keys", key_id)
    if json:
        listing.print_json(body)
    else:
        print(f"revoked {body['id']}")
