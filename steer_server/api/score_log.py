"""A sample of scores as JSON lines, for study of how answers drift by group. It holds no text."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from steer_server.errors import ConfigError
from steer_server.steering.plan import SteeringPlan
from steer_server.steering.spec import Read

logger = logging.getLogger("steer_server")


class ScoreLog:
    """One line per sampled answer: time, plan, group (what steered it), and each head's version and scores.

    The file is opened for each line, so that it may be moved away at any time.
    """

    def __init__(self, path: Path, share: float, seed: int | None = None) -> None:
        """
        Args:
            share: of the answers that are scored, 0..1.

        Raises: ConfigError when the file cannot be written.
        """
        self._path, self._share = path, share
        self._random = random.Random(seed)
        try:
            path.open("a").close()
        except OSError as error:
            raise ConfigError(f"cannot write the score log {path}: {error.strerror}") from error

    def maybe_write(
        self,
        scores: Mapping[str, Mapping[str, float]],
        versions: Mapping[str, str],
        given_by: SteeringPlan | None,
        read: Read = "turn_end",
    ) -> None:
        """
        Args:
            scores: `raw` and `calibrated` by head id.
            versions: `name@version` by head id.
            given_by: the plan that gave the answer; None for an answer from outside.
            read: where the heads read it.
        """
        if self._random.random() >= self._share:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "plan": given_by.digest if given_by else None,
            "method": given_by.method if given_by else None,
            "group": {f"{a.name}@{a.version}": a.weight for a in given_by.adapters} if given_by else None,
            "values": dict(given_by.values) if given_by else None,
            "read": read,
            "heads": {head: {"version": versions[head], **score} for head, score in scores.items()},
        }
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            # An answer is worth more than its line.
            logger.warning("score log %s: %s", self._path, error.strerror)
