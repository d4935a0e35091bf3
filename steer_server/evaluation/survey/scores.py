"""Scores of one readout of a survey: every setting against people's answers, on the same questions.

A question counts for a country only if it was answered under every setting, so that rows can be compared;
the pooled row leaves out questions that no other country was asked.

The table needs no model either: it answers a question with the mean of the country's own answers to other
questions with the same options, those that training sees, and uniformly where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Answers, Key
from steer_server.evaluation.distributions import (
    Shares,
    entropy_bits,
    jensen_shannon_bits,
    mean_shares,
    wasserstein_1,
)
from steer_server.training.survey_data import SurveyQuestion

NUM_RESAMPLES = 1000
POOLED = "pooled"
TABLE = "table"
FIXED_ROWS = ("uniform", TABLE, POOLED, "base", "prompt", "own")


class SurveyScores:
    """See the module. Divergences in bits; Wasserstein distances as a share of the scale, over questions with
    three or more options, whose natural order is taken for their scale."""

    def __init__(
        self,
        own: Mapping[str, str],
        cultures: Sequence[str],
        people: Mapping[str, Mapping[Key, SurveyQuestion]],
        asked: Sequence[Key],
        answers: Answers,
        trained: Mapping[str, Sequence[SurveyQuestion]] | None = None,
    ) -> None:
        """
        Args:
            trained: by country, the questions that the table may know; without them there is no such row.
        """
        self.trained = trained or {}
        self.own, self.cultures, self.people, self.answers = own, cultures, people, answers
        self.asked = asked

    def pooled(self, country: str, key: Key) -> Shares | None:
        """Mean of the other countries' people on the same question, each country counting the same."""
        others = [rows[key].distribution for c, rows in self.people.items() if c != country and key in rows]
        return mean_shares(others) if others else None

    def table(self, country: str, key: Key) -> Shares:
        """Mean of the country's trained questions with the same options; uniform when there are none."""
        text, options = key
        alike = [
            row.distribution
            for row in self.trained.get(country, ())
            if row.options == options and row.question != text
        ]
        return mean_shares(alike) if alike else np.full(len(options), 1 / len(options))

    def model_shares(self, setting: str, country: str, key: Key) -> Shares | None:
        """Distributions that are compared with people's, one per row; None where there is no answer."""
        if setting == "uniform":
            return np.full((1, len(key[1])), 1 / len(key[1]))
        if setting == TABLE:
            return self.table(country, key)[None]
        if setting == POOLED:
            pooled = self.pooled(country, key)
            return None if pooled is None else pooled[None]
        name = {"prompt": f"prompt {country}", "own": self.own.get(country, "")}.get(setting, setting)
        answer = self.answers.get(name, {}).get(key)
        return None if answer is None else answer.shares_O_N

    @cached_property
    def questions(self) -> dict[str, list[Key]]:
        """By country that has a culture, the questions that count."""
        settings = [s for s in (*FIXED_ROWS, *self.cultures) if s != POOLED]
        return {
            country: [
                key
                for key in self.asked
                if key in self.people[country]
                and all(self.model_shares(s, country, key) is not None for s in settings)
            ]
            for country in self.own
        }

    def keys_of(self, setting: str, country: str) -> list[Key]:
        """The questions that count for one setting."""
        keys = self.questions[country]
        if setting == TABLE and not self.trained.get(country):
            return []
        return [k for k in keys if self.pooled(country, k) is not None] if setting == POOLED else keys

    def divergences(self, setting: str, country: str, keys: Sequence[Key]) -> Shares:
        """One per question, mean over option orders."""
        return np.array(
            [
                jensen_shannon_bits(self._shares(setting, country, key), self._human(country, key)).mean()
                for key in keys
            ]
        )

    def results(self, seed: int) -> dict[str, Any]:
        """Raises: EvaluationError when no question was answered under every setting."""
        own = {country: keys for country, keys in self.questions.items() if keys}
        if not own:
            raise EvaluationError("no question was answered under every setting")
        rows = {
            setting: {
                c: float(self.divergences(setting, c, keys).mean())
                for c in own
                if (keys := self.keys_of(setting, c))
            }
            for setting in FIXED_ROWS
        }
        matrix = {
            c: {culture: float(self.divergences(culture, c, keys).mean()) for culture in self.cultures}
            for c, keys in own.items()
        }
        others = {c: [v for k, v in matrix[c].items() if k != self.own[c]] for c in own}
        if len(self.cultures) > 1:
            rows["mean other"] = {c: float(np.mean(others[c])) for c in own}
            rows["best other"] = {c: min(others[c]) for c in own}
        return {
            "rows": {setting: self._row(setting, by) for setting, by in rows.items() if by},
            "countries": {
                c: {
                    "culture": self.own[c],
                    "questions": len(keys),
                    "dropped": sum(key in self.people[c] for key in self.asked) - len(keys),
                    "jsd_bits": {s: round(by[c], 4) for s, by in rows.items() if c in by},
                }
                for c, keys in own.items()
            },
            "matrix": {c: {k: round(v, 4) for k, v in by.items()} for c, by in matrix.items()},
            "matrix_without_own": self._matrix_without_own(),
            "own_vs_base": self._reduction(seed)
            | {"own_below_uniform": self._mean(rows["own"]) < self._mean(rows["uniform"])},
            "own_vs_others": self._beaten(matrix),
            "diagnostics": self._diagnostics(),
        }

    def _row(self, setting: str, by_country: Mapping[str, float]) -> dict[str, Any]:
        worst = max(by_country, key=lambda c: by_country[c])
        row = {
            "jsd_bits": round(self._mean(by_country), 4),
            "worst_bits": round(by_country[worst], 4),
            "worst_country": worst,
        }
        if setting in FIXED_ROWS:
            for name, measure in (("wasserstein_1", self._wasserstein), ("entropy_bits", self._entropy)):
                values = {c: measure(setting, c) for c in by_country}
                known = {c: v for c, v in values.items() if v is not None}
                row[name] = round(self._mean(known), 4) if known else None
        return row

    def _mean(self, by_country: Mapping[str, float]) -> float:
        """Over the countries of a culture, then over cultures."""
        by_culture: dict[str, list[float]] = {}
        for country, value in by_country.items():
            by_culture.setdefault(self.own[country], []).append(value)
        return float(np.mean([np.mean(values) for values in by_culture.values()]))

    def _wasserstein(self, setting: str, country: str) -> float | None:
        scores = [
            wasserstein_1(self._shares(setting, country, key), self._human(country, key)).mean()
            for key in self.keys_of(setting, country)
            if len(key[1]) >= 3
        ]
        return float(np.mean(scores)) if scores else None

    def _entropy(self, setting: str, country: str) -> float | None:
        keys = self.keys_of(setting, country)
        return float(np.mean([entropy_bits(self._shares(setting, country, k)).mean() for k in keys]))

    def people_entropy(self) -> float:
        """How spread people's own answers are, in bits; to hold the models' `entropy_bits` against."""
        return self._mean(
            {
                c: float(np.mean([entropy_bits(self._human(c, k)) for k in keys]))
                for c, keys in self.questions.items()
                if keys
            }
        )

    def _reduction(self, seed: int) -> dict[str, Any]:
        """How much lower own is than base, in percent of base, with the central 95 % of what resampling the
        questions gives: the uncertainty from these questions, not from these countries."""
        own = {c: keys for c, keys in self.questions.items() if keys}
        scores = {s: np.full((len(own), len(self.asked)), np.nan) for s in ("base", "own")}
        for s, matrix in scores.items():
            for i, (country, keys) in enumerate(own.items()):
                matrix[i, [self.asked.index(k) for k in keys]] = self.divergences(s, country, keys)
        present = ~np.isnan(scores["own"])

        def reduction(counts: Shares) -> float:
            weight = present * counts
            total = weight.sum(1)
            means = {}
            for s, matrix in scores.items():
                by_country = (np.nan_to_num(matrix) * weight).sum(1) / np.where(total > 0, total, 1)
                means[s] = self._mean(
                    {c: float(v) for c, v, n in zip(own, by_country, total, strict=True) if n > 0}
                )
            return 100 * (1 - means["own"] / means["base"])

        rng = np.random.default_rng(seed)
        num = len(self.asked)
        resampled = []
        for _ in range(NUM_RESAMPLES):
            counts = np.bincount(rng.integers(num, size=num), minlength=num).astype(np.float64)
            if (present * counts).any():
                resampled.append(reduction(counts))
        return {
            "reduction_percent": round(reduction(np.ones(num)), 1),
            "reduction_percent_95": [round(float(v), 1) for v in np.percentile(resampled, (2.5, 97.5))],
        }

    def _beaten(self, matrix: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Shares of countries whose own culture is nearer to their people than other cultures are."""
        if len(self.cultures) < 2:
            return {"countries": 0, "beats_every_other_share": None, "beats_mean_other_share": None}
        every, mean = [], []
        for country, by in matrix.items():
            mine = by[self.own[country]]
            others = [v for culture, v in by.items() if culture != self.own[country]]
            every.append(mine < min(others))
            mean.append(mine < float(np.mean(others)))
        return {
            "countries": len(every),
            "beats_every_other_share": round(sum(every) / len(every), 3),
            "beats_mean_other_share": round(sum(mean) / len(mean), 3),
        }

    def _matrix_without_own(self) -> dict[str, dict[str, float]]:
        """Countries that no culture lists, on those of their questions that were asked anyway."""
        found: dict[str, dict[str, float]] = {}
        for country in sorted(set(self.people) - set(self.own)):
            keys = [
                k
                for k in self.asked
                if k in self.people[country] and all(k in self.answers.get(s, {}) for s in self.cultures)
            ]
            if keys:
                found[country] = {
                    s: round(float(self.divergences(s, country, keys).mean()), 4) for s in self.cultures
                }
        return found

    def _diagnostics(self) -> dict[str, Any]:
        """By setting: mean probability of answering with an option, and letters known only by bound."""
        return {
            "people_entropy_bits": round(self.people_entropy(), 4),
            "settings": {
                name: {
                    "answers": len(by_key),
                    "mass": float(f"{np.mean([a.mass for a in by_key.values()]):.4g}"),
                    "missing_letters": sum(a.num_missing for a in by_key.values()),
                }
                for name, by_key in self.answers.items()
                if by_key
            },
        }

    def _shares(self, setting: str, country: str, key: Key) -> Shares:
        shares = self.model_shares(setting, country, key)
        assert shares is not None, "only questions that were answered are scored"
        return shares

    def _human(self, country: str, key: Key) -> Shares:
        return mean_shares([self.people[country][key].distribution])
