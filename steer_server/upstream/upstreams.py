"""All upstreams of a server: which one a model's name means, what may be asked of it, and their one life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx

from steer_server.errors import ConfigError, RequestError, short
from steer_server.metrics import Metrics
from steer_server.settings import Settings
from steer_server.steering.spec import SteeringSpec
from steer_server.upstream.client import Patience, Upstream
from steer_server.upstream.models import ModelList
from steer_server.upstream.relay import Relay

SEPARATOR = "/"
METHODS = ("align_pro", "diffpo", "none")
"""Methods that need none of a model's weights."""

FIRST_LIST_SECONDS = 3.0
"""How long the start waits for lists of models; an upstream that is slower is listed when it answers."""


class Upstreams:
    """`NAME/model` is the model of the upstream NAME, whether or not it has been listed."""

    def __init__(self, lists: Mapping[str, ModelList], refresh_seconds: float) -> None:
        self._lists = lists
        self._refresh_seconds = refresh_seconds
        self._relays = {name: Relay(models.upstream) for name, models in lists.items()}

    @classmethod
    async def open(cls, settings: Settings, base_name: str, metrics: Metrics) -> Upstreams:
        """Those of the settings; their models are listed, unless that takes long.

        Args:
            base_name: the base model's name in the API.

        Raises: ConfigError for a bad key, or a name under which the base model could not be reached.
        """
        if not settings.upstream:
            return cls({}, settings.upstream_models_seconds)
        keys = settings.upstream_keys()
        if hiding := [name for name in settings.upstream if base_name.startswith(name + SEPARATOR)]:
            raise ConfigError(
                f"upstream {hiding[0]!r} would hide the model {base_name!r}; give one of them another name"
            )
        patience = Patience(
            settings.upstream_connect_seconds,
            settings.upstream_first_byte_seconds,
            settings.upstream_between_bytes_seconds,
        )
        tls = httpx.create_ssl_context()
        lists = {
            name: ModelList(
                Upstream(
                    name,
                    url,
                    keys.get(name),
                    patience,
                    metrics,
                    open_seconds=settings.upstream_breaker_seconds,
                    tls=tls,
                ),
                int(time.time()),
            )
            for name, url in settings.upstream.items()
        }
        opened = cls(lists, settings.upstream_models_seconds)
        await opened._first_lists()
        return opened

    def find(self, model: Any) -> Relay | None:
        """Where a request for `model` goes; None for models that are not an upstream's."""
        name, separator, rest = model.partition(SEPARATOR) if isinstance(model, str) else ("", "", "")
        return self._relays.get(name) if separator and rest else None

    def check_spec(self, model: str, spec: SteeringSpec | None, *, param: str) -> None:
        """Raises: RequestError (400) for steering that needs the weights of a model that is elsewhere."""
        if spec is not None and spec.method not in METHODS:
            raise RequestError(
                f"`model` {short(model)!r} is an upstream's, whose weights cannot be steered from here: "
                f"method {spec.method!r} does not work with it. Methods that do: {', '.join(METHODS)}.",
                param=f"{param}.method",
                code="method_unavailable",
            )
        if spec is not None and spec.reward_heads:
            raise RequestError(
                f"`model` {short(model)!r} is an upstream's; its answers are not scored. Send them to "
                "/v1/rewards.",
                param=f"{param}.reward_heads",
                code="reward_heads_unavailable",
            )

    def cards(self) -> list[dict[str, Any]]:
        """For `GET /v1/models`: what each upstream last listed."""
        return [
            {
                "id": f"{name}{SEPARATOR}{model.id}",
                "object": "model",
                "created": model.created,
                "owned_by": name,
                "root": model.id,
                "parent": None,
            }
            for name, known in self._lists.items()
            for model in known.models
        ]

    async def keep_fresh(self) -> None:
        """Lists the models anew from time to time; closes every connection when it is cancelled."""
        try:
            await asyncio.gather(*(known.keep_fresh(self._refresh_seconds) for known in self._lists.values()))
        finally:
            await self.close()

    async def close(self) -> None:
        for known in self._lists.values():
            await known.upstream.close()

    async def _first_lists(self) -> None:
        asking = [asyncio.create_task(known.refresh()) for known in self._lists.values()]
        if asking:
            _, late = await asyncio.wait(asking, timeout=FIRST_LIST_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
