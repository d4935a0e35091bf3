from __future__ import annotations

import math

import numpy as np
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.distributions import Shares
from steer_server.evaluation.pareto.fronts import hypervolume, inner_product
from steer_server.evaluation.pareto.plan import Plan
from steer_server.evaluation.pareto.scores import (
    ParetoScores,
    fixed_vectors,
    front_metrics,
    margins,
    objective_terms,
    response,
    share_above_zero,
    soup_verdict,
)
from steer_server.training.panacea_trainer import preference_scores
from tests.evaluation.pareto.test_plan import info, plan

WEIGHTS = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
SOUPS = ["small-kind", "small-brief", "small-bold"]
NUM_PAIRS = 6


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_probs(found: Plan, scale: dict[str, float]) -> dict[tuple[object, str], Shares]:
    """Δ = scale x the axis' weight in the setting, for every pair of preferences alike."""
    rows = {}
    for setting, axis in found.cells():
        method = setting.name.split()[0]
        weights = dict(setting.values) | {c.removeprefix("small-"): w for c, w in setting.blend}
        delta = scale.get(method, 0.0) * weights.get(axis, 0.0)
        base = np.linspace(-9, -7, NUM_PAIRS)
        rows[setting, axis] = np.stack([base + delta, base], axis=1)
    return rows


def scores(found: Plan, scale: dict[str, float]) -> ParetoScores:
    return ParetoScores(found, dict.fromkeys(found.axes, 0.5), log_probs(found, scale), seed=1)  # type: ignore[arg-type]


def test_the_objective_is_the_sigmoid_of_what_steering_adds_to_the_margin() -> None:
    base = np.array([[-5.0, -4.0], [-2.0, -2.0]])
    steered = np.array([[-4.0, -6.0], [-3.0, -2.0]])
    assert margins(steered, base) == pytest.approx([3.0, -1.0])
    assert objective_terms(steered, base, 0.2) == pytest.approx([sigmoid(0.6), sigmoid(-0.2)])
    assert list(objective_terms(base, base, 0.2)) == [0.5, 0.5], "the base model is one half exactly"
    assert objective_terms(steered * 1e6, base, 1.0) == pytest.approx([1.0, 0.0]), "no overflow"


def test_shares_and_objective_are_those_of_the_trainers_card() -> None:
    rng = np.random.default_rng(0)
    base, steered = rng.integers(-5, 0, (2, 40, 2)).astype(float)
    card = preference_scores([tuple(row) for row in steered], [tuple(row) for row in base], 0.2)
    assert share_above_zero(margins(steered, base)) == pytest.approx(card["log_ratio"])
    assert share_above_zero(steered[:, 0] - steered[:, 1]) == pytest.approx(card["likelihood"])
    assert objective_terms(steered, base, 0.2).mean() == pytest.approx(card["objective"])


def test_every_number_of_a_pair_follows_from_its_sweeps() -> None:
    found = scores(plan(info(SOUPS)), {"panacea": 4.0, "soup": 2.0}).results()
    result = found["pairs"][0]
    assert result["pair"] == ["kind", "brief"]
    front = [(sigmoid(0.5 * 4 * w), sigmoid(0.5 * 4 * v)) for w, v in WEIGHTS]
    panacea = result["methods"]["panacea"]
    assert panacea["points"][1]["weights"] == [0.5, 0.5]
    for point, (x, y) in zip(panacea["points"], front, strict=True):
        assert point["kind"]["objective"] == pytest.approx(x, abs=1e-6)
        assert point["brief"]["objective"] == pytest.approx(y, abs=1e-6)
    assert panacea["points"][0]["kind"]["moved_share"] == 1 == panacea["points"][1]["kind"]["moved_share"]
    assert panacea["points"][0]["brief"] == found["base"]["brief"] | {"objective": 0.5, "moved_share": 0.5}
    # Only the even vector is above the base model in both.
    corner = (sigmoid(1) - 0.5) ** 2
    assert panacea["metrics"]["hypervolume"] == pytest.approx(corner, abs=1e-6)
    assert panacea["metrics"]["inner_product"] == pytest.approx(inner_product(WEIGHTS, front), abs=1e-6)
    step = (sigmoid(2) - sigmoid(1)) ** 2 + (sigmoid(1) - 0.5) ** 2
    assert panacea["metrics"]["sparsity"] == pytest.approx(step, abs=1e-6)
    assert panacea["metrics"]["spacing"] == pytest.approx(0, abs=1e-6)
    told = result["methods"]["prompt"]
    assert told["metrics"]["hypervolume"] == 0 == told["metrics"]["spacing"]
    assert told["response"]["kind"] == {"spearman": 0.0, "is_monotone": False}
    gain = result["hypervolume_gain"]["soup"]
    assert gain["difference"] == pytest.approx(corner - (sigmoid(0.5) - 0.5) ** 2, abs=1e-6)
    # All preference pairs are alike here, so resampling changes nothing.
    assert gain["difference_95"] == pytest.approx([gain["difference"]] * 2, abs=2e-6)
    assert result["base"] == {"hypervolume": 0, "inner_product": 0.5, "sparsity": None, "spacing": None}
    assert [verdict["holds"] for verdict in found["verdicts"]] == [True, True]


def test_a_fixed_vector_gives_everyone_the_same() -> None:
    front = [(0.9, 0.6), (0.8, 0.8), (0.55, 0.95)]
    fixed = fixed_vectors(("kind", "brief"), WEIGHTS, front)
    assert fixed["even"] == fixed["best"]
    assert fixed["even"]["hypervolume"] == pytest.approx(0.09)
    assert fixed["even"]["inner_product"] == pytest.approx((0.8 + 0.8 + 0.8) / 3)
    assert fixed["kind alone"]["hypervolume"] == pytest.approx(0.04)
    assert fixed["kind alone"]["inner_product"] == pytest.approx((0.9 + 0.75 + 0.6) / 3)
    assert fixed["brief alone"]["weights"] == [0.0, 1.0]
    assert fixed["brief alone"]["sparsity"] is None
    assert hypervolume(front, (0.5, 0.5)) > fixed["best"]["hypervolume"]
    assert front_metrics(WEIGHTS, front)["hypervolume"] == pytest.approx(hypervolume(front, (0.5, 0.5)))


def test_an_axis_that_rises_and_falls_again_is_noticed() -> None:
    weights = [(w, 1 - w) for w in (1.0, 0.75, 0.5, 0.25, 0.0)]
    front = [(0.6, 0.5), (0.8, 0.6), (0.7, 0.7), (0.55, 0.8), (0.5, 0.9)]
    found = response(("kind", "brief"), weights, front)
    assert found["brief"] == {"spearman": 1.0, "is_monotone": True}
    # Ranks by weight 1..5 are met by 1, 2, 4, 5, 3: Σd² = 1 + 1 + 4.
    assert found["kind"] == {"spearman": pytest.approx(1 - 6 * 6 / 120), "is_monotone": False}


def test_a_preference_pair_that_failed_once_is_left_out_everywhere() -> None:
    found = plan(info())
    rows = log_probs(found, {"panacea": 4.0})
    spoilt = next(cell for cell in rows if cell[1] == "bold" and cell[0].values)  # type: ignore[attr-defined]
    rows[spoilt][2] = np.nan
    kept = ParetoScores(found, dict.fromkeys(found.axes, 0.5), rows, seed=1).kept  # type: ignore[arg-type]
    assert list(kept["bold"]) == [0, 1, 3, 4, 5] and len(kept["kind"]) == NUM_PAIRS
    rows[spoilt][:] = np.nan
    with pytest.raises(EvaluationError, match="no preference pair of bold"):
        ParetoScores(found, dict.fromkeys(found.axes, 0.5), rows, seed=1)  # type: ignore[arg-type]


def test_the_verdict_on_soups_is_open_until_every_pair_has_one() -> None:
    def verdict(cultures: list[str], soup: float) -> object:
        pairs = scores(plan(info(cultures)), {"panacea": 4.0, "soup": soup}).results()["pairs"]
        return soup_verdict(pairs)["holds"]

    assert verdict(SOUPS, 2.0) is True
    assert verdict(SOUPS, 6.0) is False
    assert verdict(SOUPS[:2], 2.0) is None
    assert verdict(SOUPS[:2], 6.0) is False
    assert verdict([], 0.0) is None
