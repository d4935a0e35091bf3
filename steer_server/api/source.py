"""Where a request's steering comes from: the body's `steering`, the header, or the model's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from steer_server.catalogue.snapshot import Catalogue
from steer_server.errors import NotFoundError, RequestError, short
from steer_server.steering.plan import offered_cultures
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec, parse_spec, parse_spec_text

HEADER = "X-Steering"
FIELD = "steering"
SEPARATOR = "@"


@dataclass(frozen=True)
class Source:
    """What was asked for, and the body to send on to the engine."""

    spec: SteeringSpec | None
    """None: the client did not ask for steering."""
    param: str
    """How errors name the place."""
    body: dict[str, Any]
    """Without `steering`, and with the base model's name."""


@dataclass(frozen=True)
class ModelNames:
    """The model ids of one moment: the base model, `base@culture` and presets."""

    base: str
    catalogue: Catalogue
    policy: Policy
    presets: Mapping[str, Any]

    def ids(self) -> list[str]:
        """All ids but the base model's."""
        cultures = [
            f"{self.base}{SEPARATOR}{culture}" for culture in offered_cultures(self.catalogue, self.policy)
        ]
        return cultures + sorted(self.presets)

    def spec_of(self, model: str) -> dict[str, Any] | None:
        """The steering that a model id stands for; None for the base model and for ids not ours.

        Raises: NotFoundError (404) for `base@unknown`.
        """
        if model in self.presets:
            return dict(self.presets[model])
        prefix = self.base + SEPARATOR
        if not model.startswith(prefix):
            return None
        culture = model.removeprefix(prefix)
        if culture not in self.catalogue.cultures:
            known = ", ".join(self.ids()) or "none"
            raise NotFoundError(
                f"The model `{short(model)}` does not exist. Steered models: {known}.", param="model"
            )
        return {"cultures": {culture: 1.0}}


def find_source(body: dict[str, Any], headers: Headers, names: ModelNames) -> Source:
    """Raises: RequestError (400) when steering comes from two places at once."""
    model = body.get("model")
    named = names.spec_of(model) if isinstance(model, str) else None
    given = headers.getlist(HEADER)
    sources = [
        label
        for label, num_times in (
            (f"the body's `{FIELD}`", FIELD in body),
            (f"the header `{HEADER}`", len(given)),
            (f"the model name `{model}`", named is not None),
        )
        for _ in range(num_times)
    ]
    if len(sources) > 1:
        raise RequestError(
            f"Steering comes from {' and '.join(sources)}; use one.", param=FIELD, code="two_sources"
        )
    rest = {key: value for key, value in body.items() if key != FIELD}
    if named is not None:
        return Source(parse_spec(named, param="model"), "model", {**rest, "model": names.base})
    if given:
        return Source(parse_spec_text(given[0], param=HEADER), HEADER, rest)
    if FIELD in body:
        return Source(parse_spec(body[FIELD]), FIELD, rest)
    return Source(None, FIELD, rest)
