"""Settings: everything the server reads from its environment, and nowhere else.

Order: command line, then `STEER_*` environment variables, then the default given here. A bad or unknown
`STEER_*` variable stops the start, and all of them are listed at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from steer_server.errors import ConfigError

PREFIX = "STEER_"
VLLM_PLUGINS = "VLLM_PLUGINS"
PLUGIN_NAMES = ("steer_server_engine", "steer_server_http")


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "steer-server"


def _default_data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "steer-server"


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

    bank_rank: int = Field(default=0, ge=0, le=512)
    """R: largest rank of an adapter; memory and time of the bank grow with S * R. 0: the largest rank that is
    found below `adapters` at start, or 8 without any."""

    max_num_seqs: int = Field(default=64, ge=1, le=4096)
    """Most sequences in one engine step, and so most distinct plans in one step."""

    max_waiting: int = Field(default=256, ge=0)
    """Most requests that may wait for bank slots; one more is answered 503."""

    max_wait_seconds: float = Field(default=30.0, gt=0)
    """Longest wait for bank slots before 503."""

    max_plans: int = Field(default=4096, ge=1)
    """Distinct plans the engine remembers; the least recently used is forgotten first."""

    api_key: SecretStr | None = None
    """An application key without limits, beside those of the database. When set, requests need a key."""

    admin_key: SecretStr | None = None
    """An operator key, beside those of the database. Without it administration also answers this machine."""

    @classmethod
    def read(cls, **command_line: Any) -> Settings:
        """Settings from the command line (None = not given) over the environment over the defaults.

        Raises: ConfigError naming every bad or unknown variable.
        """
        known = {PREFIX + name.upper() for name in cls.model_fields}
        problems = [
            f"{name}: unknown variable; known: {', '.join(sorted(known))}"
            for name in sorted(os.environ)
            if name.startswith(PREFIX) and name not in known
        ]
        settings = None
        try:
            settings = cls(**{k: v for k, v in command_line.items() if v is not None})
        except ValidationError as error:
            problems += [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        if problems or settings is None:
            raise ConfigError("bad settings:\n  " + "\n  ".join(problems))
        return settings

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


def engine_log_level(level: str) -> dict[str, str]:
    """The environment for an engine process that logs from `level` on."""
    return {**os.environ, "VLLM_LOGGING_LEVEL": level}
