"""The probe of a reward head: one text through the real engine, to see that the head gives it a score."""

from __future__ import annotations

import math

from steer_server.catalogue.probe import probe_failed
from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.engine.base import ScoringText
from steer_server.engine.heads import LoadedHeads
from steer_server.errors import CapacityError, CatalogueError, SteerError

MESSAGES = ({"role": "user", "content": "What matters most in life?"},)
ANSWER = "Family, health and work that is worth doing."


async def probe_head(heads: LoadedHeads, head: LoadedRewardHead) -> None:
    """Loads the head and scores a text.

    Raises: CatalogueError: `probe_failed`, `probe_not_finite`.
    """
    text = ScoringText(MESSAGES, ANSWER, head.config.text_format)
    try:
        async with heads.hold([head]):
            (scored,) = await heads.engine.score([text])
    except CapacityError:
        raise
    except SteerError as error:
        raise probe_failed(head.name, error) from error
    raw = scored.raw.get(head.digest)
    if raw is None:
        raise CatalogueError(head.name, "probe_failed", "the engine gave no score")
    if not math.isfinite(raw):
        raise CatalogueError(head.name, "probe_not_finite", f"score {raw}")
