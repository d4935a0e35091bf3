"""Rows and verdicts of `eval frozen` from answers that are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from steer_server.catalogue.reward_head import Calibration, RewardHeadConfig, TextFormat
from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.frozen.answers import Answered, Work
from steer_server.evaluation.frozen.asking import Asker, Given, ask_once, base_way
from steer_server.evaluation.frozen.scores import relative_change, score_ways
from steer_server.evaluation.frozen.verdicts import judge_targets
from steer_server.evaluation.frozen.ways import ALIGN_PRO, PLAIN, SEARCH, Aim
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.judges import Judge
from steer_server.evaluation.samples import Sampling

BEST = "best of 5"
DENOISED = "denoised"
JUDGE = Judge(
    "kind",
    RewardHeadConfig(
        schema_version=1,
        hidden_size=1,
        layer="final_norm",
        text_format=TextFormat(layout="conversation", max_tokens=8),
        model="bradley_terry",
        label_meaning="it is kind",
        calibration=Calibration(scale=2.0),
        split="judge",
    ),
    {},
    np.zeros(1),
    0.0,
    "digest",
)
PROMPTS: list[Messages] = [(("user", f"ask {n}"),) for n in range(4)]


def given(text: str, seconds: float | None = 1.0, score: float = 0.5, **findings: Any) -> Given:
    return Given(text, False, 10, 20, findings, seconds, score)


def denoised(text: str, draft: str, seconds: float | None) -> Given:
    report = {
        "outcome": "improved" if text != draft else "draft",
        "reason": None if text != draft else "less_likely",
        "loops": 2,
        "changed_share": 0.25,
        "draft": draft,
        "candidates": {"better": 1, "less_likely": 2},
        "draft_scores": {"log_likelihood": -2.0, "log_ratio": 0.0},
        "answer_scores": {"log_likelihood": -2.0, "log_ratio": 0.5},
    }
    return given(text, seconds, denoising=report)


def worth(text: str) -> float:
    """The judge's raw score: the number that a text ends with."""
    return float(text.split()[-1])


def rows_of(likelihoods: Mapping[str, float] | None = None, **ways: list[Given | None]) -> dict[str, Any]:
    """By way, what it gave to each prompt; None: it failed. Args: likelihoods: by text."""
    names = {name.replace("_", " "): found for name, found in ways.items()}
    asker = Asker(ServerClient("http://test"), "m", "m", "kind", 5, Sampling(), {}, "")
    aim = Aim("kind", "", tuple(base_way(name, ask_once) for name in names))
    answered = {
        prompt: Answered({name: one for name, found in names.items() if (one := found[n]) is not None}, {})
        for n, prompt in enumerate(PROMPTS)
    }
    texts = {
        (prompt, text)
        for prompt, found in answered.items()
        for one in found.given.values()
        for text in (one.text, one.findings.get("denoising", {}).get("draft", one.text))
    }
    verdicts = {(prompt, text): worth(text) for prompt, text in texts}
    read = {(prompt, text): found for prompt in PROMPTS for text, found in (likelihoods or {}).items()}
    return score_ways(Work(aim, asker, PROMPTS, answered), JUDGE, verdicts, read)


def test_rewards_are_calibrated_and_gains_are_over_the_plain_answer_to_the_same_prompt() -> None:
    told: list[Given | None] = [given(f"b {n + 1}", score=0.75) for n in range(4)]
    rows = rows_of(plain=[given(f"a {n}") for n in range(4)], told=told)
    raw = np.arange(4.0)
    before, after = 1 / (1 + np.exp(-2 * raw)), 1 / (1 + np.exp(-2 * (raw + 1)))
    assert rows[PLAIN]["judge_reward"]["mean"] == pytest.approx(before.mean(), rel=1e-3)
    assert rows["told"]["judge_gain"]["mean"] == pytest.approx((after - before).mean(), rel=1e-3)
    assert rows["told"]["head_gain"] == {"mean": 0.25, "interval_95": [0.25, 0.25]}
    assert rows["told"]["against_plain"]["win"] == 4 and "against_plain" not in rows[PLAIN]


def test_a_failed_answer_leaves_its_prompt_out_of_the_comparison_and_is_counted() -> None:
    rows = rows_of(
        plain=[given("a 0"), None, given("a 2"), given("a 3")],
        told=[None, given("b 9"), given("b 1"), given("b 3")],
    )
    assert rows["told"]["failed"] == 1 and rows["told"]["answers"] == 3
    against = rows["told"]["against_plain"]
    assert (against["win"], against["tie"], against["lose"]) == (0, 1, 1)


def test_an_answer_that_took_a_retry_has_no_latency() -> None:
    seconds = [1.0, None, 3.0, 5.0]
    others = [2.0, 2.0, None, 4.0]
    rows = rows_of(plain=[given("a 0", s) for s in seconds], best_of_5=[given("b 0", s) for s in others])
    assert rows[PLAIN]["latency"]["timed"] == 3 and rows[PLAIN]["latency"]["p50_seconds"] == 3
    expected = np.percentile([1, 5], 95) / np.percentile([2, 4], 95)
    assert rows[PLAIN]["latency"]["p95_over_best_of"] == pytest.approx(expected, rel=1e-3)
    assert "p95_over_best_of" not in rows[BEST]["latency"]


def test_a_denoised_answer_is_compared_with_its_own_draft() -> None:
    drafts = ["d 1", "d 1", "d 1", "d 1"]
    texts = ["e 2", "e 0", "d 1", "d 1"]
    rows = rows_of(
        plain=[given("a 5") for _ in range(4)],
        denoised=[denoised(text, draft, 1.0) for text, draft in zip(texts, drafts, strict=True)],
        likelihoods={"d 1": -2.0, "e 2": -2.1, "e 0": -1.9},
    )
    against = rows[DENOISED]["against_draft"]
    assert (against["win"], against["tie"], against["lose"]) == (1, 2, 1)
    assert against["of_changed"]["prompts"] == 2 and against["of_changed"]["win_rate"] == 0.5
    assert rows[DENOISED]["against_plain"]["lose"] == 4
    found = rows[DENOISED]["denoising"]
    assert found["outcomes"] == {"improved": 2, "less_likely": 2} and found["improved_share"] == 0.5
    assert found["likelihood_change"]["mean"] == pytest.approx(0, abs=1e-9)
    assert found["likelihood_change_worst"] == pytest.approx(-0.05), "as read here, whatever the server says"
    assert found["candidates_by_guard"] == {"better": 4, "less_likely": 8}


def test_the_change_of_likelihood_is_relative_and_negative_when_worse() -> None:
    assert relative_change(-1.6, -2.0) == pytest.approx(-0.25)
    assert relative_change(0.0, -2.0) == 0


def rewrite(text: str, status: str, reason: str | None, ms: float) -> Given:
    said = {"status": status, "reason": reason, "detail": None}
    return given(text, rewrite=said, timings_ms={"rewrite": ms})


def test_rewrites_are_counted_by_what_became_of_them_and_cached_ones_have_no_time() -> None:
    rewritten: list[Given | None] = [
        rewrite("b 1", "rewritten", None, 40),
        rewrite("b 1", "cached", None, 0.1),
        rewrite("a 0", "original", "cut", 60),
        rewrite("b 1", "rewritten", None, 50),
    ]
    rows = rows_of(
        plain=[given("a 0") for _ in range(4)],
        prompt_search=[given("c 1", search={"rewrites": 5, "usable": n}) for n in range(4)],
        align_pro=rewritten,
    )
    found = rows["align pro"]
    assert found["rewriting"] == {
        "outcomes": {"cached": 1, "cut": 1, "rewritten": 2},
        "sent_share": 0.75,
        "uncached_p50_ms": 50,
    }
    assert (found["against_search"]["tie"], found["against_search"]["lose"]) == (3, 1)
    assert rows[SEARCH]["usable_rewrites"] == 1.5


def aims(rate: float, worst: float, ratio: float | None, prompts: int = 2000) -> dict[str, Any]:
    half_wins = round(2 * rate * prompts)
    against = {"win": half_wins // 2, "tie": half_wins % 2, "prompts": prompts}
    latency = {} if ratio is None else {"p95_over_best_of": ratio, "p95_over_best_of_95": [ratio, ratio]}
    change = {"mean": -0.01, "interval_95": [-0.02, 0.0]}
    denoising = {"likelihood_change_worst": worst, "likelihood_change": change}
    row = {"denoising": denoising, "against_draft": against, "latency": latency}
    rows = {DENOISED: row, ALIGN_PRO: {"rewriting": {}, "against_plain": against, "latency": latency}}
    return {"kind": {"rows": rows, "missing": {}}}


def rewriting(cached: float, share: float) -> dict[str, Any]:
    return {
        "prompts": 9,
        "answer_tokens": 128,
        "cached_ms": {"p50": cached / 2, "p95": cached},
        "uncached_over_answer": {"p50": share, "p50_95": [share, share], "p95": 2 * share},
        "align_pro_over_plain": {"p50": 1 + share},
    }


@pytest.mark.parametrize(
    ("rate", "worst", "ratio", "cached", "share", "is_met"),
    [
        (0.57, -0.05, 0.82, 1.999, 0.35, True),
        (0.569, -0.051, 0.821, 2.0, 0.351, False),
        # Rounded to three digits these would be at their bounds.
        (0.56975, -0.0501, 0.82004, 2.0, 0.35004, False),
    ],
)
def test_a_target_is_met_at_its_bound_and_missed_beyond_it(
    rate: float, worst: float, ratio: float, cached: float, share: float, is_met: bool
) -> None:
    found = judge_targets(aims(rate, worst, ratio), rewriting(cached, share), BEST)
    assert len(found) == 6 and {target.is_met for target in found} == {is_met}


def test_a_win_rate_says_whether_its_interval_is_above_a_half() -> None:
    for rate, word in ((0.64, "is above 0.5"), (0.58, "is not above 0.5")):
        found = judge_targets(aims(rate, 0.0, 0.5, prompts=100), {}, BEST)
        assert all(word in target.found for target in found if "win rate" in target.what)


def test_what_was_not_measured_is_no_verdict() -> None:
    nothing = {"kind": {"rows": {}, "missing": {ALIGN_PRO: "the server has no prompter kind"}}}
    found = judge_targets(nothing, {}, BEST)
    assert [target.is_met for target in found] == [None] * 3
    assert found[0].found == "the server has no prompter kind"
    latency = [t for t in judge_targets(aims(0.6, 0.0, None), {}, BEST) if BEST in t.what]
    assert [target.is_met for target in latency] == [None]
