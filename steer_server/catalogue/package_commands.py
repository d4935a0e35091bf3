"""`steer-server adapters validate | keygen | sign`: packages on this machine, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_server.catalogue.commands import Package, failing_with_a_message
from steer_server.catalogue.signatures import SignaturePolicy
from steer_server.settings import MAX_RANK

commands = typer.Typer()
HERE = "On this machine"

ResultJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


@commands.command("validate", rich_help_panel=HERE)
def validate(
    package: Package,
    model: Annotated[str, typer.Option(help="`builtin`, a directory or a Hugging Face id.")] = "builtin",
    trusted_keys: Annotated[
        Path | None, typer.Option(help="Directory of public keys (`*.pub`), or one of them.", exists=True)
    ] = None,
    signatures: Annotated[
        SignaturePolicy, typer.Option(help="`require` refuses what no trusted key signed.")
    ] = SignaturePolicy.WARN,
    max_rank: Annotated[
        int, typer.Option(min=1, max=MAX_RANK, help="Largest that the server's bank takes.")
    ] = MAX_RANK,
    json: ResultJson = False,
) -> None:
    """Check a package as the server does before it runs it. Exit code 1, and the reason, if it is refused."""
    from steer_server.catalogue import listing
    from steer_server.catalogue.base_model import BaseModel
    from steer_server.catalogue.offline import check_package
    from steer_server.settings import Settings

    with failing_with_a_message():
        settings = Settings.read(model=model)
        checked = check_package(package, BaseModel.fetched(settings), max_rank, signatures, trusted_keys)
    if json:
        listing.print_json(checked.describe())
    else:
        listing.print_fields(listing.fields_of(checked.describe()))


@commands.command("keygen", rich_help_panel=HERE)
def keygen(
    out: Annotated[Path, typer.Argument(help="Writes OUT.key, to sign with, and OUT.pub, for servers.")],
    json: ResultJson = False,
) -> None:
    """Make a key pair to sign packages with. Keep OUT.key to yourself; servers trust OUT.pub."""
    from steer_server.catalogue import listing
    from steer_server.catalogue.signatures import generate_key

    private, public = out.with_name(f"{out.name}.key"), out.with_name(f"{out.name}.pub")
    with failing_with_a_message():
        fingerprint = generate_key(private, public)
    made = {"private": str(private), "public": str(public), "fingerprint": fingerprint}
    if json:
        listing.print_json(made)
    else:
        listing.print_fields(made)


@commands.command("sign", rich_help_panel=HERE)
def sign(
    folder: Annotated[Path, typer.Argument(help="Package folder.", exists=True, file_okay=False)],
    private_key: Annotated[Path, typer.Option(help="As `keygen` makes it.", exists=True, dir_okay=False)],
    json: ResultJson = False,
) -> None:
    """Sign a package folder, after its last change: the signature covers every file."""
    from steer_server.catalogue import listing
    from steer_server.catalogue.signatures import sign as sign_folder

    with failing_with_a_message():
        signature = sign_folder(folder, private_key)
    if json:
        listing.print_json({"signature": str(signature)})
    else:
        listing.print_fields({"signature": signature})
