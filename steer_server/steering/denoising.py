"""The options of method `diffpo`: where the draft comes from, what it is moved toward, and how far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steer_server.errors import RequestError
from steer_server.steering.fields import count, number

OPTIONS = ("loops", "guidance", "draft", "statement", "variant", "candidates")
VARIANTS = ("spans", "conflicts")
"""Ways to find what is drawn anew; the first is the default."""
MAX_STATEMENT_CHARACTERS = 4000


@dataclass(frozen=True)
class Denoising:
    """Options of one request."""

    loops: int = 6
    """At most."""
    guidance: float = 1.0
    """g of `π_g ∝ π_ref (π_s / π_ref)^g`, from which candidates are drawn. Approximated by multiplying the
    plan's gates by g, so it needs adapters. Log-ratios are always those of π_s itself."""
    draft: str | None = None
    """None: the request's model writes it."""
    statement: str | None = None
    """π_s is the base model with this in its system prompt. None: π_s is the plan's."""
    variant: str = VARIANTS[0]
    candidates: int = 4
    """Drawn for each place in each loop."""


def parse_denoising(options: Mapping[str, Any], *, has_adapters: bool, param: str) -> Denoising:
    """From a request's `options`, whose keys are known.

    Args:
        has_adapters: whether the request names cultures or values.
        param: path of `options` in errors.

    Raises: RequestError (400).
    """
    statement = _text(options, "statement", param)
    if statement is not None and len(statement) > MAX_STATEMENT_CHARACTERS:
        raise RequestError(
            f"The statement has {len(statement)} characters; at most {MAX_STATEMENT_CHARACTERS}.",
            param=f"{param}.statement",
        )
    if has_adapters == (statement is not None):
        raise RequestError(
            "diffpo moves a draft toward one of two things: `cultures` and `values`, or `options.statement`; "
            + ("give one of them, not both." if has_adapters else "give one."),
            param=f"{param}.statement",
        )
    guidance = number(options.get("guidance", Denoising.guidance), f"{param}.guidance")
    if guidance <= 0:
        raise RequestError("must be above 0.", param=f"{param}.guidance")
    if statement is not None and guidance != 1:
        raise RequestError(
            "`guidance` scales adapters, and a statement has none; leave it out.", param=f"{param}.guidance"
        )
    variant = options.get("variant", Denoising.variant)
    if variant not in VARIANTS:
        raise RequestError(f"must be one of {', '.join(VARIANTS)}.", param=f"{param}.variant")
    return Denoising(
        count(options.get("loops", Denoising.loops), f"{param}.loops"),
        guidance,
        _text(options, "draft", param),
        statement,
        variant,
        count(options.get("candidates", Denoising.candidates), f"{param}.candidates"),
    )


def _text(options: Mapping[str, Any], key: str, param: str) -> str | None:
    text = options.get(key)
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise RequestError(f"`{key}` must be a text that is not empty.", param=f"{param}.{key}")
    return text
