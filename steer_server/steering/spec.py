"""SteeringSpec: what the client asked for, checked for form but not yet against what is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from steer_server.errors import RequestError, UnknownNameError, short
from steer_server.steering.denoising import OPTIONS as DENOISING_OPTIONS
from steer_server.steering.denoising import Denoising, parse_denoising
from steer_server.steering.fields import count, json_type, number
from steer_server.strict_json import JsonError, read_json

METHODS = ("adapters", "best_of_n", "align_pro", "diffpo", "none")
"""Methods this server can run."""

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "adapters": ("read",),
    "none": ("read",),
    "best_of_n": ("n", "weights", "read"),
    "align_pro": ("prompter",),
    "diffpo": DENOISING_OPTIONS,
}
"""Keys of `options`, by method."""
DEFAULT_CANDIDATES = 4

Read = Literal["turn_end", "generation"]
"""Where heads read an answer. `turn_end`: at the token that ends its turn, under the base model, as they were
trained; one more prefill. `generation`: in the pass that generates it, under the request's own plan, at the
row that its last token was sampled from. That is a position earlier and needs no pass of its own, and is
another quantity."""

KEYS = ("cultures", "values", "strength", "method", "reward_heads", "options")
MAX_ENTRIES = 64


@dataclass(frozen=True)
class SteeringSpec:
    """The request's `steering` object. Maps keep no order: two orders give the same plan."""

    cultures: Mapping[str, float] = field(default_factory=dict)
    """Weight per culture id: its share in the blend. Not normalised: weights add."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Weight per value axis; normalised to the simplex when planned."""
    strength: float = 1.0
    """Scales every culture's weight. 0 is the base model, bit for bit."""
    method: str = "adapters"
    reward_heads: tuple[str, ...] = ()
    """Head ids that score the answer, each once, as in the request."""
    candidates: int = DEFAULT_CANDIDATES
    """`options.n` of best_of_n: answers to choose from."""
    head_weights: Mapping[str, float] = field(default_factory=dict)
    """`options.weights` of best_of_n: how much each of the heads counts; normalised to the simplex when
    chosen by. Empty: all the same."""
    denoising: Denoising | None = None
    """Options of diffpo; None with any other method."""
    prompter: str | None = None
    """`options.prompter` of align_pro; None for the only one that there is."""
    read: Read = "turn_end"
    """`options.read`."""


def parse_spec(document: Any, *, param: str = "steering") -> SteeringSpec:
    """A SteeringSpec from decoded JSON.

    Args:
        document: the value of the `steering` key or header.
        param: path put before the names of fields in errors.

    Raises: RequestError (400) whose `param` names the field, such as `steering.cultures.confucian`.
    """
    if not isinstance(document, dict):
        raise RequestError(f"`{param}` must be an object, not {json_type(document)}.", param=param)
    for key in document:
        if key not in KEYS:
            raise UnknownNameError("key", str(key), KEYS, param=f"{param}.{key}", code="unknown_key")
    method = document.get("method", "adapters")
    if not isinstance(method, str):
        raise RequestError(f"must be a string, not {json_type(method)}.", param=f"{param}.method")
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS, param=f"{param}.method", code="unknown_method")
    cultures = _weights(document, "cultures", param)
    values = _weights(document, "values", param)
    strength = number(document.get("strength", 1.0), f"{param}.strength")
    heads = _names(document.get("reward_heads", []), f"{param}.reward_heads")
    options = _options(document.get("options", {}), method, f"{param}.options")
    if method == "none" and (cultures or values):
        raise RequestError(
            "method 'none' takes no cultures and no values; leave them out, or use method 'adapters'.",
            param=f"{param}.method",
        )
    if method == "align_pro" and (cultures or values):
        raise RequestError(
            "align_pro leaves the model as it is, so it takes no cultures and no values: a prompter that was "
            "trained for them does their part. Leave them out and name it in `options.prompter`; GET "
            "/v1/steering lists the prompters.",
            param=f"{param}.{'cultures' if cultures else 'values'}",
        )
    if method == "adapters" and not cultures and not values:
        raise RequestError(
            "Nothing to steer by: give `cultures` or `values`, or method 'none' for the base model.",
            param=param,
        )
    if method == "best_of_n" and not heads:
        raise RequestError(
            "best_of_n chooses by reward heads; name at least one.", param=f"{param}.reward_heads"
        )
    denoising = None
    if method == "diffpo":
        has_adapters = bool(cultures or values)
        denoising = parse_denoising(options, has_adapters=has_adapters, param=f"{param}.options")
    return SteeringSpec(
        cultures,
        values,
        strength,
        method,
        heads,
        count(options.get("n", DEFAULT_CANDIDATES), f"{param}.options.n"),
        _head_weights(options, heads, f"{param}.options"),
        denoising,
        _prompter(options, f"{param}.options.prompter"),
        _read(options, heads, f"{param}.options.read"),
    )


def parse_spec_text(text: str, *, param: str) -> SteeringSpec:
    """The same from JSON text, as in the `X-Steering` header."""
    try:
        document = read_json(text)
    except JsonError as error:
        place = f"{param}.{error.place}" if error.place else param
        raise RequestError(f"`{param}` is not valid JSON: {error}.", param=place) from error
    return parse_spec(document, param=param)


def _weights(document: Mapping[str, Any], key: str, param: str) -> dict[str, float]:
    if key not in document:
        return {}
    field_name = f"{param}.{key}"
    weights = document[key]
    if not isinstance(weights, dict):
        raise RequestError(
            f'`{key}` must map names to weights, such as {{"name": 0.5}}, not {json_type(weights)}.',
            param=field_name,
        )
    if not weights:
        raise RequestError(f"`{key}` is empty; leave it out or name at least one.", param=field_name)
    if len(weights) > MAX_ENTRIES:
        raise RequestError(f"`{key}` has {len(weights)} entries; at most {MAX_ENTRIES}.", param=field_name)
    parsed = {name: number(weight, f"{field_name}.{name}") for name, weight in weights.items()}
    if all(weight == 0 for weight in parsed.values()):
        raise RequestError(
            f"The weights in `{key}` sum to 0. For the base model use strength 0 or method 'none'.",
            param=field_name,
        )
    return parsed


def _names(names: Any, param: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"`{param}` must be a list of names.", param=param)
    if len(names) > MAX_ENTRIES:
        raise RequestError(f"`{param}` has {len(names)} entries; at most {MAX_ENTRIES}.", param=param)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise RequestError(f"{short(name)!r} is named twice.", param=f"{param}.{i}")
    return tuple(names)


def _options(options: Any, method: str, param: str) -> dict[str, Any]:
    if not isinstance(options, dict):
        raise RequestError(f"`{param}` must be an object, not {json_type(options)}.", param=param)
    known = OPTIONS.get(method, ())
    for key in options:
        if key not in known:
            told = f"Its options: {', '.join(known)}." if known else "It has none."
            raise RequestError(
                f"Method {method!r} has no option {short(key)!r}. {told}",
                param=f"{param}.{key}",
                code="unknown_option",
            )
    return options


def _prompter(options: Mapping[str, Any], param: str) -> str | None:
    prompter = options.get("prompter")
    if prompter is not None and not isinstance(prompter, str):
        raise RequestError(f"must be a prompter's id, not {json_type(prompter)}.", param=param)
    return prompter


def _read(options: Mapping[str, Any], heads: tuple[str, ...], param: str) -> Read:
    if "read" not in options:
        return "turn_end"
    read = options["read"]
    if read not in get_args(Read):
        raise RequestError(f"must be one of {', '.join(get_args(Read))}.", param=param)
    if not heads:
        raise RequestError(
            "`read` says where reward heads read the answer; name some in `reward_heads`, or leave it out.",
            param=param,
        )
    return cast(Read, read)


def _head_weights(options: dict[str, Any], heads: tuple[str, ...], param: str) -> dict[str, float]:
    weights = _weights(options, "weights", param)
    for name, weight in weights.items():
        if name not in heads:
            raise UnknownNameError(
                "head", name, heads, param=f"{param}.weights.{name}", code="unknown_reward_head"
            )
        if weight < 0:
            raise RequestError(
                f"Weight {weight:g} is below 0; a preference vector lies on the simplex.",
                param=f"{param}.weights.{name}",
            )
    return weights
