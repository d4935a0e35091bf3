"""Scores of one readout of a survey: every setting against people's answers, on the same questions.

A question counts for a country only if it was answered under every setting, so that rows can be compared;
the pooled row leaves out questions that no other country was asked.

The table needs no model either: it answers a question with the mean of the country's own answers to other
questions with the same options, among those that are known, and uniformly where there are none.
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
OWN = "own"
FIXED_ROWS = ("uniform", TABLE, POOLED, "base", "prompt", OWN)


class SurveyScores:
    """See the module. Divergences in bits; Wasserstein distances as a share of the scale, over questions with
    three or more options, whose natural order is taken for their scale."""

    def __init__(
        self,
        countries: Sequence[str],
        own: Mapping[str, str],
        cultures: Sequence[str],
        people: Mapping[str, Mapping[Key, SurveyQuestion]],
        asked: Sequence[Key],
        answers: Answers,
        learnt: Mapping[str, Mapping[Key, SurveyQuestion]],
    ) -> None:
        """
        Args:
            countries: that are scored. Those without an `own` culture have rows of their own.
            learnt: by country, the questions that rows without a model know, beside the one they answer in
                other countries.
        """
        self.countries, self.own, self.cultures = countries, own, cultures
        self.people, self.answers, self.asked, self.learnt = people, answers, asked, learnt

    def pooled(self, country: str, key: Key) -> Shares | None:
        """Mean of the other countries' people on the same question, each country counting the same."""
        known = {
            c: rows[key].distribution
            for by_country in (self.learnt, self.people)
            for c, rows in by_country.items()
            if c != country and key in rows
        }
        return mean_shares(list(known.values())) if known else None

    def table(self, country: str, key: Key) -> Shares:
        """Mean of the country's other questions with the same options; uniform when none is known."""
        text, options = key
        alike = [
            row.distribution
            for row in self.learnt.get(country, {}).values()
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
        name = {"prompt": f"prompt {country}", OWN: self.own.get(country, "")}.get(setting, setting)
        answer = self.answers.get(name, {}).get(key)
        return None if answer is None else answer.shares_O_N

    @cached_property
    def questions(self) -> dict[str, list[Key]]:
        """By country, the questions that count."""
        return {
            country: [
                key
                for key in self.asked_in(country)
                if all(
                    self.model_shares(setting, country, key) is not None
                    for setting in ("base", "prompt", *self.cultures)
                )
            ]
            for country in self.countries
        }

    def asked_in(self, country: str) -> list[Key]:
        """The questions that were asked and that the country's people answered."""
        return [key for key in self.asked if key in self.people[country]]

    def keys_of(self, setting: str, country: str) -> list[Key]:
        """The questions that count for one setting."""
        keys = self.questions[country]
        if setting == TABLE and not self.learnt.get(country):
            return []
        if setting == OWN and country not in self.own:
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
        scored = [country for country, keys in self.questions.items() if keys]
        if not scored:
            raise EvaluationError("no question was answered under every setting")
        own = [country for country in scored if country in self.own]
        without = [country for country in scored if country not in self.own]
        rows = {
            setting: {
                c: float(self.divergences(setting, c, keys).mean())
                for c in scored
                if (keys := self.keys_of(setting, c))
            }
            for setting in FIXED_ROWS
        }
        matrix = {
            c: {k: float(self.divergences(k, c, self.questions[c]).mean()) for k in self.cultures}
            for c in scored
        }
        if len(self.cultures) > 1:
            others = {c: [v for k, v in matrix[c].items() if k != self.own[c]] for c in own}
            rows["mean other"] = {c: float(np.mean(others[c])) for c in own}
            rows["best other"] = {c: min(others[c]) for c in own}
        return {
            "rows": self._rows(rows, own),
            "rows_without_own": self._rows(rows, without),
            "countries": {
                c: {
                    "culture": self.own.get(c),
                    "questions": len(self.questions[c]),
                    "dropped": len(self.asked_in(c)) - len(self.questions[c]),
                    "jsd_bits": {s: round(by[c], 4) for s, by in rows.items() if c in by},
                }
                for c in scored
            },
            "dropped": self._dropped(),
            "matrix": {c: _rounded(matrix[c]) for c in own},
            "matrix_without_own": {c: _rounded(matrix[c]) for c in without},
            "own_vs_base": self._reduction(seed, own)
            | {"own_below_uniform": self._mean(rows[OWN]) < self._mean({c: rows["uniform"][c] for c in own})}
            if own
            else None,
            "own_vs_others": self._beaten({c: matrix[c] for c in own}),
            "diagnostics": self._diagnostics(own, without),
        }

    def _rows(
        self, rows: Mapping[str, Mapping[str, float]], countries: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """Means over these countries, of the rows that have any of them."""
        chosen = {setting: {c: by[c] for c in countries if c in by} for setting, by in rows.items()}
        return {setting: self._row(setting, by) for setting, by in chosen.items() if by}

    def _dropped(self) -> dict[str, int]:
        """How many questions do not count, as requests failed, of all that were asked, country by country."""
        asked = sum(len(self.asked_in(c)) for c in self.countries)
        return {"questions": asked - sum(map(len, self.questions.values())), "of": asked}

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
        """Over the countries of a culture, then over cultures; a country without one is one."""
        by_culture: dict[tuple[bool, str], list[float]] = {}
        for country, value in by_country.items():
            by_culture.setdefault((country in self.own, self.own.get(country, country)), []).append(value)
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

    def people_entropy(self, countries: Sequence[str]) -> float | None:
        """How spread people's own answers are, in bits; to hold the models' `entropy_bits` against."""
        if not countries:
            return None
        entropies = {
            c: float(np.mean([entropy_bits(self._human(c, k)) for k in self.questions[c]])) for c in countries
        }
        return round(self._mean(entropies), 4)

    def _reduction(self, seed: int, countries: Sequence[str]) -> dict[str, Any]:
        """How much lower own is than base, in percent of base, with the central 95 % of what resampling the
        questions gives: the uncertainty from these questions, not from these countries."""
        own = {c: self.questions[c] for c in countries}
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
        if len(self.cultures) < 2 or not matrix:
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

    def _diagnostics(self, own: Sequence[str], without: Sequence[str]) -> dict[str, Any]:
        """By setting: mean probability of answering with an option, and letters known only by bound."""
        return {
            "people_entropy_bits": self.people_entropy(own),
            "people_entropy_bits_without_own": self.people_entropy(without),
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


def _rounded(by_culture: Mapping[str, float]) -> dict[str, float]:
    return {culture: round(bits, 4) for culture, bits in by_culture.items()}
