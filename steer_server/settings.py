"""Settings: everything the server reads from its environment, and nowhere else.

Order: command line, then `STEER_*` environment variables, then the default given here. A bad or unknown
`STEER_*` variable stops the start, and all of them are listed at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from steer_server.errors import ConfigError

PREFIX = "STEER_"
VLLM_PLUGINS = "VLLM_PLUGINS"
PLUGIN_NAMES = ("steer_server_engine", "steer_server_http")
MAX_RANK = 512
"""Of any bank: vLLM's `max_lora_rank` ends there."""
UPSTREAM_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,31}$")
UPSTREAM_KEY = re.compile(r"^STEER_UPSTREAM_[A-Z0-9_]+_KEY$")


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "steer-server"


def _default_data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "steer-server"


def upstream_key_variable(name: str) -> str:
    """Where the key of an upstream is read from."""
    return f"{PREFIX}UPSTREAM_{name.upper().replace('-', '_')}_KEY"


def _parse_upstreams(given: Any) -> dict[str, str]:
    """From `NAME=URL`, several of them in a list or separated by spaces, or from a mapping."""
    if isinstance(given, str):
        given = given.split()
    pairs = list(given.items()) if isinstance(given, Mapping) else [text.split("=", 1) for text in given]
    upstreams: dict[str, str] = {}
    for pair in pairs:
        if len(pair) != 2 or not UPSTREAM_NAME.match(pair[0]):
            # What is wrong may hold a key, so it is not repeated.
            raise ValueError("write NAME=URL, with a name of lower case letters, digits, '-' and '_'")
        name, url = pair
        if upstream_key_variable(name) in map(upstream_key_variable, upstreams):
            raise ValueError(f"two upstreams are called {name!r}, or would read the same key")
        upstreams[name] = _upstream_url(name, url)
    return upstreams


def _upstream_url(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_plain = is_address = False
    if not is_address or not is_plain:
        raise ValueError(
            f"upstream {name!r} needs a URL such as https://host/v1, without user, password or query; "
            f"its key goes into {upstream_key_variable(name)}"
        )
    # OpenAI's paths begin with /v1, which is easily left out.
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


UpstreamUrls = Annotated[Mapping[str, str], NoDecode, BeforeValidator(_parse_upstreams)]
"""Name -> URL. NoDecode: the variable is not JSON."""


class Settings(BaseSettings):
    """Frozen once read."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: str = "builtin"
    """`builtin`, a directory, or a Hugging Face id that vLLM supports."""

    served_model_name: str = ""
    """Name in the API. Empty: `smollm2` for the built-in model, else the last part of `model`."""

    adapters: Path | None = None
    """Directory whose sub-directories are adapters; at start, those that are not known yet are pushed and
    activated. None: what the catalogue has."""

    watch: bool = False
    """Follow the adapters directory while serving."""

    data: Path = Field(default_factory=_default_data)
    """Where database and store are, in a folder for each base model, unless the next two say otherwise."""

    database: SecretStr | None = None
    """The catalogue's database: `sqlite:///path`, or `postgresql://...` for several replicas."""

    store: str = ""
    """Where adapter files are kept: a directory, or `s3://bucket/prefix`."""

    store_endpoint: str = ""
    """Of an S3-compatible server other than AWS."""

    signatures: Literal["off", "warn", "require"] = "off"
    """Whether packages must be signed by a trusted key."""

    trusted_keys: Path | None = None
    """Directory of public keys (`*.pub`), or one of them."""

    poll_seconds: float = Field(default=1.0, gt=0)
    """Longest time until a change of the database by another replica is seen."""

    policy: Path | None = None
    """YAML file with limits, floors and denied adapters; see `steering/policy.py`."""

    presets: Path | None = None
    """YAML file that maps preset ids to `steering` objects."""

    cache: Path = Field(default_factory=_default_cache)
    """Where the built-in model is kept."""

    bank_slots: int = Field(default=8, ge=1, le=1024)
    """S: how many adapters are resident in the engine at once."""

    bank_rank: int = Field(default=0, ge=0, le=MAX_RANK)
    """R: largest rank of an adapter; memory and time of the bank grow with S * R. 0: the largest rank that is
    found below `adapters` at start, or 8 without any."""

    max_num_seqs: int = Field(default=64, ge=1, le=4096)
    """Most sequences in one engine step, and so most distinct plans in one step."""

    max_waiting: int = Field(default=256, ge=0)
    """Most requests that may wait for bank slots; one more is answered 503."""

    max_body_mib: int = Field(default=16, ge=1)
    """Largest JSON body that a route of ours reads; a larger one is answered 413. Adapters have limits of
    their own."""

    max_wait_seconds: float = Field(default=30.0, gt=0)
    """Longest wait for bank slots before 503."""

    max_plans: int = Field(default=4096, ge=1)
    """Distinct plans the engine remembers; the least recently used is forgotten first."""

    rewrite_max_tokens: int = Field(default=128, ge=1)
    """Longest rewrite of align_pro; a message of more than 4 characters for each of them is sent as it is."""

    rewrite_cache_characters: int = Field(default=10_000_000, ge=0)
    """Of all rewrites that are kept together; 0 keeps none."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """Of log lines; `auto` is text in a terminal and JSON elsewhere. vLLM's lines are JSON with ours."""

    score_log: Path | None = None
    """File that a sample of the scores is appended to, as JSON lines without any text."""

    score_log_share: float = Field(default=0.01, gt=0, le=1)
    """How many of the scored answers are in it."""

    api_key: SecretStr | None = None
    """An application key without limits, beside those of the database. When set, requests need a key."""

    admin_key: SecretStr | None = None
    """An operator key, beside those of the database. Without it administration also answers this machine."""

    upstream: UpstreamUrls = Field(default_factory=dict)
    """OpenAI-compatible endpoints whose models are served as `NAME/model`: `NAME=URL`, several separated by
    spaces. The key of NAME is in `STEER_UPSTREAM_<NAME>_KEY`, and nowhere else."""

    upstream_connect_seconds: float = Field(default=5.0, gt=0)
    """Longest wait for a connection to an upstream."""

    upstream_first_byte_seconds: float = Field(default=300.0, gt=0)
    """Longest wait for the first byte of an upstream's answer, retries included. Without streaming that is
    nearly the whole answer."""

    upstream_between_bytes_seconds: float = Field(default=60.0, gt=0)
    """Longest silence of an upstream in the middle of an answer."""

    upstream_breaker_seconds: float = Field(default=10.0, gt=0)
    """How long an upstream that failed repeatedly is left alone before it is tried again."""

    upstream_models_seconds: float = Field(default=60.0, gt=0)
    """Time between two looks at what models an upstream has."""

    @classmethod
    def read(cls, **command_line: Any) -> Settings:
        """Settings from the command line (None = not given) over the environment over the defaults.

        Raises: ConfigError naming every bad or unknown variable.
        """
        settings = None
        problems = []
        try:
            settings = cls(**{k: v for k, v in command_line.items() if v is not None})
            settings.upstream_keys()
        except ValidationError as error:
            problems += [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        except ConfigError as error:
            problems.append(str(error))
        known = {PREFIX + name.upper() for name in cls.model_fields}
        key_names = {upstream_key_variable(name) for name in (settings.upstream if settings else ())}
        for name in sorted(os.environ):
            if not name.startswith(PREFIX) or name in known | key_names:
                continue
            if UPSTREAM_KEY.match(name):
                # When the settings are bad, whose key it is cannot be known.
                problems += [f"{name}: there is no such upstream"] if settings else []
            else:
                problems.append(f"{name}: unknown variable; known: {', '.join(sorted(known))}")
        if problems or settings is None:
            raise ConfigError("bad settings:\n  " + "\n  ".join(problems))
        return settings

    def upstream_keys(self) -> dict[str, SecretStr]:
        """The keys of those upstreams that have one. Raises: ConfigError for one that no header can carry."""
        keys = {}
        for name in self.upstream:
            variable = upstream_key_variable(name)
            if key := os.environ.get(variable):
                if not key.isascii() or not key.isprintable() or " " in key:
                    raise ConfigError(f"{variable}: not a key: it has blanks, line ends or other letters")
                keys[name] = SecretStr(key)
        return keys

    def export(self) -> None:
        """Put these settings into the environment, for the engine's own processes, and allow our plugins.

        vLLM starts its workers as new processes; the environment is the only channel that reaches them all.
        """
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                os.environ.pop(PREFIX + name.upper(), None)
                continue
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, Mapping):
                value = " ".join(f"{key}={url}" for key, url in value.items())
            os.environ[PREFIX + name.upper()] = str(value)
        allow_plugins(engine=True, http=True)


def allow_plugins(*, engine: bool, http: bool = False) -> None:
    """Names our plugins in vLLM's allowlist for this process and those that it starts, beside what is there;
    without either, vLLM runs as if we were not installed."""
    ours = [name for name, wanted in zip(PLUGIN_NAMES, (engine, http), strict=True) if wanted]
    allowed = [
        name for name in os.environ.get(VLLM_PLUGINS, "").split(",") if name not in ("", *PLUGIN_NAMES)
    ]
    os.environ[VLLM_PLUGINS] = ",".join([*allowed, *ours]) or "none"


def is_engine_plugin_allowed() -> bool:
    """Whether vLLM was told to use our engine plugin. Without an allowlist it loads every plugin that is
    installed, which must not change a plain vLLM in the same environment."""
    return PLUGIN_NAMES[0] in os.environ.get(VLLM_PLUGINS, "").split(",")


@dataclass(frozen=True)
class OtlpTraces:
    """Where spans are sent."""

    endpoint: str
    protocol: str
    """`grpc` or `http/protobuf`."""


DEFAULT_ENDPOINTS = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}


def otlp_traces() -> OtlpTraces | None:
    """Where OpenTelemetry's own variables say that traces go. None: nowhere, as without any of
    `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and `OTEL_TRACES_EXPORTER=otlp`.

    Raises: ConfigError for an exporter or a protocol that there is not.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter not in ("", "otlp"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER: traces go by `otlp` or `none`, not by {exporter!r}")
    # The default is that of vLLM and of the Python SDK.
    protocol = _otlp_variable("PROTOCOL") or "grpc"
    if protocol not in DEFAULT_ENDPOINTS:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL: one of {', '.join(DEFAULT_ENDPOINTS)}")
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    if not endpoint and (base or exporter):
        base = base or DEFAULT_ENDPOINTS[protocol]
        # OpenTelemetry's rule: the general variable has no path of the signal.
        endpoint = base if protocol == "grpc" else f"{base.rstrip('/')}/v1/traces"
    return OtlpTraces(endpoint, protocol) if endpoint else None


def share_traces() -> None:
    """Has vLLM, and the processes that it starts, send its own spans in the same way and under one name."""
    if protocol := _otlp_variable("PROTOCOL"):
        os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = protocol
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", "steer-server")


def _otlp_variable(name: str) -> str | None:
    """That of traces, before that of all signals."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}")


def fresh_environment(cache: Path) -> dict[str, str]:
    """The environment for a server beside whatever this machine serves: without our variables, which may name
    a database and keys, but for the cache of the built-in model."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**others, f"{PREFIX}CACHE": str(cache)}


def engine_log_level(level: str) -> dict[str, str]:
    """The environment for an engine process that logs from `level` on."""
    return {**os.environ, "VLLM_LOGGING_LEVEL": level}
