import math
from dataclasses import replace

import numpy as np
import pytest

from steer_server.catalogue.reward_head import Calibration
from steer_server.training.bag_of_words import bag_of_words_classes
from steer_server.training.calibration import expected_calibration_error, platt
from steer_server.training.logistic import (
    Linear,
    cross_entropy,
    fit_group_robust,
    fit_logistic,
    group_weights,
    sigmoid,
)
from steer_server.training.pooled_head import Fit, Folds, Table, choose_fit, fit_offset, fit_pool
from steer_server.training.reward_data import Row
from steer_server.training.reward_scores import (
    accuracies,
    by_group,
    calibration_errors,
    three_classes,
    worst_group,
)

RNG = np.random.default_rng(7)


def judged(x: np.ndarray, target: np.ndarray, group: list[str], units: list[str] | None = None) -> Table:
    units = units or [f"u{i}" for i in range(len(x))]
    rows = tuple(
        Row(u, g, (("user", "?"),), "a", None, float(t)) for u, g, t in zip(units, group, target, strict=True)
    )
    return Table(rows, x, x, is_pairs=False)


def compared(first: np.ndarray, second: np.ndarray, target: np.ndarray) -> Table:
    rows = tuple(Row(f"u{i}", "", (), "long answer", "short", float(t)) for i, t in enumerate(target))
    return Table(rows, first - second, (first + second) / 2, is_pairs=True)


def test_the_fit_minimises_the_loss_of_its_module() -> None:
    """Against the formula, in plain loops, at the minimum and a little beside it."""
    x, target, weight = RNG.normal(size=(30, 3)), RNG.uniform(size=30), RNG.uniform(size=30)
    prior = Linear(np.array([1.0, -1.0, 0.5]), 0.2)

    def loss(w: np.ndarray, b: float) -> float:
        total = 0.0
        for n in range(30):
            p = 1 / (1 + math.exp(-(w @ x[n] + b)))
            total -= weight[n] * (target[n] * math.log(p) + (1 - target[n]) * math.log(1 - p))
        return total / weight.sum() + 0.3 / 2 * float(((w - prior.weight) ** 2).sum())

    fit = fit_logistic(x, target, weight, penalty=0.3, prior=prior)
    least = loss(fit.weight, fit.bias)
    for _ in range(20):
        assert loss(fit.weight + 1e-2 * RNG.normal(size=3), fit.bias + 1e-2 * RNG.normal()) > least


def test_a_large_penalty_leaves_the_prior_and_no_intercept_means_no_bias() -> None:
    x, target = RNG.normal(size=(40, 2)), (RNG.uniform(size=40) > 0.5).astype(float)
    prior = Linear(np.array([3.0, -2.0]), 0.0)
    assert fit_logistic(x, target, np.ones(40), penalty=1e6, prior=prior).weight == pytest.approx(
        prior.weight, abs=1e-4
    )
    assert fit_logistic(x, target, np.ones(40), penalty=0.1, intercept=False).bias == 0


def test_the_cross_entropy_is_finite_for_any_score() -> None:
    raw = np.array([0.0, 1000.0, -1000.0])
    assert cross_entropy(raw, np.array([0.5, 1.0, 1.0])) == pytest.approx([math.log(2), 0, 1000])


def test_group_weights_follow_their_formula() -> None:
    before = {"a": 0.5, "b": 0.3, "c": 0.2}
    losses = {"a": 0.1, "b": 0.7, "c": 0.4}
    raised = {g: before[g] * math.exp(2 * losses[g]) for g in before}
    expected = {g: value / sum(raised.values()) for g, value in raised.items()}
    assert group_weights(losses, before, eta=2) == pytest.approx(expected)


def test_group_robust_fitting_lowers_the_worst_groups_loss() -> None:
    """Two groups that disagree, one ten times as large: equal weights serve the large one."""
    x = RNG.normal(size=(330, 2))
    group = np.array(["large"] * 300 + ["small"] * 30)
    target = np.where(group == "large", x[:, 0] > 0, x[:, 1] - x[:, 0] > 0).astype(float)
    equal = fit_logistic(x, target, np.ones(330), penalty=0.01)
    robust, alpha = fit_group_robust(x, target, group, penalty=0.01, eta=1.0, rounds=30)

    def worst(head: Linear) -> float:
        losses = cross_entropy(head.raw(x), target)
        return max(float(losses[group == g].mean()) for g in ("large", "small"))

    assert worst(robust) < worst(equal) - 0.05
    assert alpha["small"] > 0.5 and sum(alpha.values()) == pytest.approx(1)


@pytest.mark.parametrize("is_pairs", [False, True])
def test_a_folded_head_scores_plain_hidden_states_alike(is_pairs: bool) -> None:
    first, second = 5 + 3 * RNG.normal(size=(60, 4)), 5 + 3 * RNG.normal(size=(60, 4))
    target = (first[:, 0] > (second[:, 0] if is_pairs else 5)).astype(float)
    table = compared(first, second, target) if is_pairs else judged(first, target, ["g"] * 60)
    head = fit_pool(table, Fit(0.01, None), {})
    folded = head.folded()
    if is_pairs:
        assert folded.raw(first) - folded.raw(second) == pytest.approx(head.raw(table))
        assert folded.raw((first + second) / 2).mean() == pytest.approx(0, abs=1e-9)
    else:
        assert folded.raw(first) == pytest.approx(head.raw(table))
    assert accuracies(head.raw(table), table, np.ones(60))["accuracy"] > 0.9


def test_swapping_the_answers_swaps_the_sign() -> None:
    first, second = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3))
    target = RNG.uniform(size=50)
    head = fit_pool(compared(first, second, target), Fit(0.1, None), {})
    swapped = fit_pool(compared(second, first, 1 - target), Fit(0.1, None), {})
    assert swapped.folded().weight == pytest.approx(head.folded().weight, abs=1e-4)


def test_an_offset_helps_a_culture_that_differs_and_none_is_the_pool() -> None:
    x = RNG.normal(size=(400, 3))
    group = ["many"] * 300 + ["few"] * 100
    few = np.array(group) == "few"
    target = np.where(few, x[:, 1] > 0, x[:, 0] > 0).astype(float)
    table = judged(x, target, group)
    owner = {"many": "m", "few": "f"}
    folds = Folds(table, {f"u{i}": i % 5 for i in range(400)}, owner)
    fit = choose_fit(folds, few, [0.01, 0.1], [None, 0.1, 0.01])
    assert fit.offset_penalty == 0.01

    def right(fit: Fit) -> float:
        return float(((folds.raw(few, fit) > 0) == (target[few] > 0.5)).mean())

    assert right(fit) > right(Fit(fit.pool_penalty, None)) + 0.1
    pool = fit_pool(table, fit, owner)
    assert fit_offset(pool, table.take(few), Fit(0.1, None)) is pool


def test_out_of_fold_scores_see_nothing_of_their_unit() -> None:
    """Labels are noise that repeats within a unit: only a head that has seen the unit can know them."""
    units = [f"u{i // 10}" for i in range(200)]
    centre = {u: RNG.normal(size=40) for u in units}
    noise = {u: float(RNG.uniform() > 0.5) for u in units}
    x = np.stack([centre[u] + 0.01 * RNG.normal(size=40) for u in units])
    target = np.array([noise[u] for u in units])
    table = judged(x, target, ["g"] * 200, units)
    everything = np.ones(200, dtype=bool)
    by_unit = Folds(table, {u: i % 5 for i, u in enumerate(dict.fromkeys(units))}, {})
    seen = fit_pool(table, Fit(0.01, None), {}).raw(table)
    unseen = by_unit.raw(everything, Fit(0.01, None))
    assert ((seen > 0) == (target > 0.5)).mean() == 1
    assert ((unseen > 0) == (target > 0.5)).mean() < 0.8


def test_platt_scaling_finds_the_scale_and_the_offset() -> None:
    raw = RNG.normal(size=20_000) * 4
    target = (RNG.uniform(size=20_000) < sigmoid(0.5 * raw + 1)).astype(float)
    found = platt(raw, target, offset=True)
    assert (found.scale, found.offset) == (pytest.approx(0.5, abs=0.03), pytest.approx(1, abs=0.06))
    assert platt(raw, target, offset=False).offset == 0
    assert found(0.7) == pytest.approx(float(sigmoid(np.array(found.scale * 0.7 + found.offset))))
    assert Calibration(scale=1.0)(-1000) == 0


def test_the_calibration_error_is_the_weighted_gap_of_its_bins() -> None:
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    target = np.array([0.0, 1.0, 1.0, 1.0])
    expected = 2 / 4 * abs(0.05 - 0.5) + 2 / 4 * abs(0.975 - 1)
    assert expected_calibration_error(probability, target) == pytest.approx(expected)


def test_scores_leave_out_ties_and_stand_beside_their_baselines() -> None:
    table = judged(np.zeros((5, 1)), np.array([1.0, 1.0, 1.0, 0.0, 0.5]), ["a", "a", "b", "b", "b"])
    raw, words = np.array([1.0, -1.0, 1.0, -1.0, 1.0]), np.array([1, 1, 1, 1, 1])
    scores = accuracies(raw, table, words)
    assert scores == {"rows": 4, "accuracy": 0.75, "majority": 0.75, "bag_of_words": 0.75}
    groups = by_group(raw, table, words)
    assert worst_group(groups) == {
        "group": "a", "rows": 2, "accuracy": 0.5, "majority": 1.0, "bag_of_words": 1.0
    }  # fmt: skip


def test_choices_are_compared_with_length() -> None:
    table = compared(np.zeros((4, 1)), np.zeros((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]))
    scores = accuracies(np.ones(4), table, np.ones(4, dtype=int))
    assert (scores["length"], scores["majority"]) == (0.75, 0.5)


def test_neutral_can_be_a_class_between_two_thresholds() -> None:
    raw = np.repeat([-1.0, 0.0, 1.0], 20)
    target = np.repeat([0.0, 0.5, 1.0], 20)
    table = judged(raw[:, None], target, ["g"] * 60)
    scores = three_classes(raw, table, np.arange(60) % 2, np.zeros(60, dtype=int))
    assert (scores["accuracy"], scores["majority"]) == (1.0, pytest.approx(1 / 3, abs=1e-3))


def test_the_bag_of_words_learns_words_and_ignores_the_order_of_answers() -> None:
    kind = [Row(f"k{i}", "", (), "a kind word", "a rude word", 1.0) for i in range(10)]
    rude = [Row(f"r{i}", "", (), "a rude word", "a kind word", 0.0) for i in range(10)]
    assert bag_of_words_classes(kind, kind[:1] + rude[:1]).tolist() == [1, 0]
    single = [Row("u", "", (), f"{word} tea", None, t) for word, t in (("hot", 1.0), ("cold", 0.0))] * 5
    assert bag_of_words_classes(single, single[:2]).tolist() == [1, 0]
    neutral = [Row("u", "", (), "lukewarm tea", None, 0.5)] * 5
    assert bag_of_words_classes(single + neutral, [*single[:2], neutral[0]], 3).tolist() == [1, 0, 2]
    assert bag_of_words_classes(single[::2], single[:2]).tolist() == [1, 1]


def test_the_bag_of_words_of_few_or_neutral_rows_is_the_more_frequent_class() -> None:
    texts = ("one", "two", "three", "four", "five", "six")
    rows = [Row(text, "", (), text, None, float(n < 4)) for n, text in enumerate(texts)]
    assert bag_of_words_classes(rows, rows).tolist() == [1, 1, 1, 1, 0, 0], "words that occur once are learnt"
    blank = [replace(row, answer="?") for row in rows]
    assert bag_of_words_classes(blank, blank).tolist() == [1] * 6, "without words, the more frequent class"
    neutral = [replace(row, target=0.5) for row in rows]
    assert bag_of_words_classes(neutral, rows).tolist() == [0] * 6
    assert bag_of_words_classes(neutral, rows, 3).tolist() == [2] * 6
    choices = [replace(row, answer="?", other="!", target=1.0) for row in rows]
    assert bag_of_words_classes(choices, choices).tolist() == [0, 1, 0, 1, 0, 1], "right half the time"


def test_the_calibration_of_choices_does_not_depend_on_which_answer_stands_first() -> None:
    first, second = np.array([[2.0], [1.0], [-0.5]]), np.zeros((3, 1))
    identity = Calibration(scale=1.0)
    won = calibration_errors((first - second)[:, 0], compared(first, second, np.ones(3)), identity)
    lost = calibration_errors((second - first)[:, 0], compared(second, first, np.zeros(3)), identity)
    assert won == lost and won["ece_before"] > 0
