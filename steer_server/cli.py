"""The `steer-server` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from steer_server import builtin_model
from steer_server.catalogue.commands import commands as adapter_commands
from steer_server.catalogue.key_commands import commands as key_commands
from steer_server.catalogue.package_commands import commands as package_commands
from steer_server.errors import SteerError
from steer_server.evaluation.bench_commands import commands as bench_commands
from steer_server.evaluation.eval_commands import commands as eval_commands
from steer_server.evaluation.load_commands import commands as load_commands
from steer_server.settings import Settings
from steer_server.training.commands import commands as train_commands

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Steer a model's values per request.")
model_commands = typer.Typer(no_args_is_help=True, help="The built-in model.")
app.add_typer(model_commands, name="model")
adapter_commands.add_typer(package_commands)  # without a name: beside the others
app.add_typer(adapter_commands, name="adapters")
app.add_typer(key_commands, name="keys")
app.add_typer(train_commands, name="train")
bench_commands.add_typer(load_commands)  # as above
app.add_typer(bench_commands, name="bench")
app.add_typer(eval_commands, name="eval")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="`builtin`, a directory or a Hugging Face id.")] = None,
    adapters: Annotated[Path | None, typer.Option(help="Directory of adapter folders.")] = None,
    watch: Annotated[bool | None, typer.Option(help="Follow the adapters directory while serving.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the catalogue keeps its state and files.")] = None,
    policy: Annotated[Path | None, typer.Option(help="YAML file: limits, floors, denied adapters.")] = None,
    presets: Annotated[Path | None, typer.Option(help="YAML file: preset id -> steering object.")] = None,
    bank_slots: Annotated[int | None, typer.Option(help="Adapters resident at once.")] = None,
    bank_rank: Annotated[
        int | None, typer.Option(help="Largest rank of an adapter; 0: by what is there.")
    ] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Most sequences in one step.")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="The base model's name in the API.")] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(help="NAME=URL of an OpenAI-compatible endpoint; its key: STEER_UPSTREAM_<NAME>_KEY."),
    ] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option()] = 8000,
) -> None:
    """Serve. Further options go to vLLM, such as `--max-model-len 2048`."""
    settings = Settings.read(
        model=model,
        adapters=adapters and adapters.resolve(),
        watch=watch,
        data=data and data.resolve(),
        policy=policy and policy.resolve(),
        presets=presets and presets.resolve(),
        bank_slots=bank_slots,
        bank_rank=bank_rank,
        max_num_seqs=max_num_seqs,
        served_model_name=served_model_name,
        upstream=upstream or None,
    )
    from steer_server.catalogue.base_model import BaseModel
    from steer_server.catalogue.loader import with_bank_size
    from steer_server.catalogue.service import stored_versions

    base = BaseModel.fetched(settings)
    settings = with_bank_size(settings, stored_versions(settings, base))
    from steer_server.engine.launch import serve as serve_vllm

    serve_vllm(base, settings, host, port, context.args)


@app.command()
def check(
    url: Annotated[str, typer.Argument(help="Such as http://127.0.0.1:8000")],
    api_key: Annotated[str, typer.Option(envvar="STEER_API_KEY")] = "",
) -> None:
    """Test a running server: base unchanged, steered differs, blends add up, bad input is refused."""
    from steer_server.check import run_checks

    raise typer.Exit(0 if run_checks(url, api_key) else 1)


@model_commands.command("fetch")
def model_fetch() -> None:
    """Fetch and convert the built-in model, unless it is there. Prints its directory."""
    print(builtin_model.ensure_builtin(Settings.read().cache))


def main() -> None:
    """Entry point: errors of ours are one message, not a traceback."""
    try:
        app()
    except SteerError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
