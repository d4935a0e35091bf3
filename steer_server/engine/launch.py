"""Starts vLLM's own server, in this process, with the bank and our routes in it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from steer_server.catalogue.base_model import BaseModel
from steer_server.engine.ending import HTTP_END_SECONDS
from steer_server.engine.plugin import WORKER_EXTENSION
from steer_server.engine.worker import BANK_KEY
from steer_server.errors import ConfigError, EngineError
from steer_server.observing.logs import configure, is_json
from steer_server.settings import PLUGIN_NAMES, Settings, otlp_traces, share_traces

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM allows as `max_lora_rank`; the bank's own rank may be any number up to the next of them."""

CPU_KV_CACHE_BYTES = 2 * 2**30
"""KV cache on CPU unless given. vLLM's own default is a share of all memory, and it does not start when other
programs use some of it. Enough for 90,000 tokens of the built-in model."""

OURS = (
    "--enable-lora",
    "--max-loras",
    "--max-cpu-loras",
    "--max-lora-rank",
    "--lora-target-modules",
    "--lora-modules",
    "--worker-extension-cls",
    "--additional-config",
    "--served-model-name",
    "--model",
    "--max-num-seqs",
    "--api-key",
    "--api-server-count",
    "--enable-request-id-headers",
    "--fully-sharded-loras",
)
"""vLLM options that the server sets itself; giving one is a start-up error."""


def engine_options(base: BaseModel, settings: Settings) -> dict[str, Any]:
    """vLLM engine options that put the bank in place; also for `vllm.LLM(**options)`."""
    return {
        "model": base.path,
        "max_num_seqs": settings.max_num_seqs,
        "enable_lora": True,
        # vLLM counts distinct plans of a step, not adapters.
        "max_loras": settings.max_num_seqs,
        "max_cpu_loras": settings.max_num_seqs,
        "max_lora_rank": next(rank for rank in VLLM_RANKS if rank >= settings.bank_rank),
        "lora_target_modules": base.linear_suffixes,
        "worker_extension_cls": WORKER_EXTENSION,
        "additional_config": {BANK_KEY: {"slots": settings.bank_slots, "rank": settings.bank_rank}},
    }


def serve(
    base: BaseModel, settings: Settings, host: str, port: int, vllm_arguments: Sequence[str] = ()
) -> None:
    """Serves until stopped. Requests under way then have vLLM's `--shutdown-timeout` to finish.

    Args:
        vllm_arguments: further options of `vllm serve`, such as `["--max-model-len", "2048"]`.

    Raises:
        ConfigError: for an option that the server sets itself, or when vLLM would not find our plugins.
        EngineError: the engine died, and the server has ended with it.
    """
    given = {argument.split("=")[0].replace("_", "-") for argument in vllm_arguments}
    if taken := sorted(given & set(OURS)):
        raise ConfigError(f"these vLLM options are set by the server itself: {', '.join(taken)}")
    _check_plugins()
    settings.export()
    options = {"host": host, "port": port, "served_model_name": [base.served_name]}
    configure(sys.stdout, as_json=is_json(settings.log_format, sys.stdout))
    share_traces()
    options |= observing_options(given, settings)
    launch(
        vllm_arguments,
        {**engine_options(base, settings), **options},
        program="steer-server serve",
        timeout_graceful_shutdown=HTTP_END_SECONDS,
    )
    if _http_plugin().end.has_died:
        raise EngineError("the engine has died; its last words are in the log above")


def observing_options(given: Collection[str], settings: Settings) -> dict[str, Any]:
    """Our own lines in place of uvicorn's, vLLM's lines and spans in the form of ours and to the same place;
    unless other vLLM options say how. Raises: ConfigError."""
    from vllm.config.logging import LoggingConfig

    options: dict[str, Any] = {"disable_uvicorn_access_log": True}
    is_told = any(name.startswith(("--logging-config", "--log-config-file")) for name in given)
    if is_json(settings.log_format, sys.stdout) and not is_told:
        options["logging_config"] = LoggingConfig(formatter="json")
    otlp = otlp_traces()
    if otlp is not None and "--otlp-traces-endpoint" not in given:
        options["otlp_traces_endpoint"] = otlp.endpoint
    return options


def launch(given: Sequence[str], options: Mapping[str, Any], *, program: str, **http_options: Any) -> None:
    """vLLM's own server, in this process until it is stopped.

    Args:
        given: of the command line.
        options: that are set whatever was given, by the names of their attributes.
        program: what messages call it.
        http_options: of uvicorn.
    """
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog=program))
    arguments = parser.parse_args(list(given))
    for name, value in options.items():
        setattr(arguments, name, value)
    if current_platform.is_cpu() and arguments.kv_cache_memory_bytes is None:
        arguments.kv_cache_memory_bytes = CPU_KV_CACHE_BYTES
    configure_logging_from_args(arguments)
    validate_parsed_serve_args(arguments)
    uvloop.run(run_server(arguments, **http_options))


def _check_plugins() -> None:
    """vLLM only logs a plugin that it cannot find or import, and then serves without it."""
    groups = ("vllm.general_plugins", "vllm.endpoint_plugins")
    found = {entry.name: entry for group in groups for entry in entry_points(group=group)}
    if missing := sorted(set(PLUGIN_NAMES) - set(found)):
        raise ConfigError(f"entry points {missing} are not installed; run `pip install` on the project again")
    for name in PLUGIN_NAMES:
        found[name].load()
    _http_plugin()


def _http_plugin() -> Any:
    """Imports vLLM."""
    from steer_server.engine.plugin import http_plugin

    return http_plugin()
