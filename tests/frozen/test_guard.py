"""The guard's two conditions, at their edges."""

from __future__ import annotations

import pytest

from steer_server.frozen.guard import MAX_LOSS, MIN_GAIN, Verdict, judge
from tests.frozen.tables import scored

DRAFT = scored("draft", {"draft": (0.1, -2.0)})


@pytest.mark.parametrize(
    ("ratio", "reference", "expected"),
    [
        (0.1 + 2 * MIN_GAIN, -2.0, Verdict.BETTER),
        (0.1 + MIN_GAIN / 2, -1.0, Verdict.LOWER_RATIO),
        (5.0, -2.0 * (1 + MAX_LOSS) + 1e-6, Verdict.BETTER),
        (5.0, -2.0 * (1 + MAX_LOSS) - 1e-6, Verdict.LESS_LIKELY),
        (0.0, -9.0, Verdict.LOWER_RATIO),
    ],
)
def test_the_log_ratio_must_rise_and_the_likelihood_hold(
    ratio: float, reference: float, expected: Verdict
) -> None:
    assert judge(scored("answer", {"answer": (ratio, reference)}), DRAFT, DRAFT) is expected


def test_small_losses_do_not_add_up() -> None:
    """The ratio is compared with the present answer's, the likelihood always with the draft's."""
    step = scored("step", {"step": (0.3, -2.08)})
    second = scored("second", {"second": (0.5, -2.16)})
    assert judge(step, DRAFT, DRAFT) is Verdict.BETTER
    assert judge(second, step, step) is Verdict.BETTER
    assert judge(second, step, DRAFT) is Verdict.LESS_LIKELY
