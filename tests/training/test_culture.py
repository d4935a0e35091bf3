import gzip
import json
import random
from pathlib import Path

import pytest
import torch

from steer_server.errors import TrainingError
from steer_server.training.chat_loss import IGNORED, Batch, batch_loss, kl_to_base
from steer_server.training.culture import (
    CultureRecipe,
    jensen_shannon_bits,
    split_questions,
    uniform_divergence,
)
from steer_server.training.survey_data import (
    SurveyQuestion,
    examples_for_epoch,
    letter_example,
    pool_countries,
    read_survey,
)
from tests.support.servers import ROOT

TEA = SurveyQuestion("Q1", "Tea or coffee?", ("tea", "coffee", "neither"), (0.5, 0.3, 0.2))


def write_survey(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def row(country: str, shares: list[float]) -> dict:
    return {
        "country": country,
        "question_id": "Q1",
        "question": "Tea?",
        "options": ["a", "b"],
        "distribution": shares,
    }


def test_countries_of_a_zone_count_the_same(tmp_path: Path) -> None:
    survey = read_survey(write_survey(tmp_path / "s.gz", [row("AAA", [1.0, 0.0]), row("BBB", [0.5, 0.5])]))
    (pooled,) = pool_countries(survey, ["AAA", "BBB"])
    assert pooled.distribution == (0.75, 0.25)


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.0], [0.2, 0.3, 0.5]])
def test_a_distribution_that_does_not_fit_is_an_error(tmp_path: Path, shares: list[float]) -> None:
    with pytest.raises(TrainingError, match=r"s\.gz:1"):
        read_survey(write_survey(tmp_path / "s.gz", [row("AAA", shares)]))


def test_an_unknown_country_is_an_error(tmp_path: Path) -> None:
    survey = read_survey(write_survey(tmp_path / "s.gz", [row("AAA", [1.0, 0.0])]))
    with pytest.raises(TrainingError, match="XXX"):
        pool_countries(survey, ["XXX"])


def test_letters_are_shuffled_and_keep_their_shares() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(50):
        example = letter_example(TEA, rng)
        listed = [line[3:] for line in example.prompt.splitlines()[1:4]]
        assert example.letters == tuple(
            dict(zip(TEA.options, TEA.distribution, strict=True))[o] for o in listed
        )
        seen.add(tuple(listed))
    assert len(seen) == 6


def test_an_epoch_asks_each_question_in_three_forms() -> None:
    examples = examples_for_epoch([TEA], random.Random(0))
    assert len(examples) == 3 and sum(example.letters is not None for example in examples) == 1
    assert all(e.answer in ("tea.", "coffee.", "neither.") for e in examples if e.answer)


def test_the_same_questions_are_held_out_for_every_culture() -> None:
    rows = [SurveyQuestion(f"Q{i}", "?", ("a", "b"), (0.5, 0.5)) for i in range(200)]
    training, held_out = split_questions(rows, 0.2, seed=1)
    assert len(training) + len(held_out) == 200 and 20 < len(held_out) < 60
    assert [r.question_id for r in split_questions(rows[::-1], 0.2, seed=1)[1]] == [
        r.question_id for r in held_out[::-1]
    ]


def test_jensen_shannon_is_0_for_equals_and_1_bit_for_opposites() -> None:
    same, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert jensen_shannon_bits(same, same) == 0 and jensen_shannon_bits(same, other) == pytest.approx(1.0)


def test_the_uniform_baseline_is_computed_from_the_questions() -> None:
    peaked = SurveyQuestion("Q2", "?", ("a", "b"), (1.0, 0.0))
    even = SurveyQuestion("Q3", "?", ("a", "b"), (0.5, 0.5))
    assert uniform_divergence([even]) == 0
    assert uniform_divergence([peaked, even]) == pytest.approx(0.3113 / 2, abs=1e-3)


def test_the_loss_is_the_formula_of_its_module() -> None:
    """One lettered chat with two options, one answered in two tokens; every chat counts the same."""
    torch.manual_seed(0)
    logits = torch.randn(3, 7)
    letters = torch.zeros(3, 26)
    letters[0, :2] = torch.tensor([0.7, 0.3])
    batch = Batch(
        ids_N_T=torch.zeros(2, 4),
        mask_N_T=torch.ones(2, 4),
        rows_P=torch.tensor([0, 1, 1]),
        columns_P=torch.tensor([3, 2, 3]),
        labels_P=torch.tensor([IGNORED, 4, 5]),
        letters_P_L=letters,
        weights_P=torch.tensor([1.0, 0.5, 0.5]),
    )
    letter_ids = torch.arange(26).clamp(max=6)
    log_p = logits.log_softmax(-1)
    by_letters = -(0.7 * log_p[0, 0] + 0.3 * log_p[0, 1])
    by_words = -(log_p[1, 4] + log_p[2, 5]) / 2
    assert batch_loss(logits, batch, letter_ids) == pytest.approx(float((by_letters + by_words) / 2))


def test_closeness_is_the_kl_divergence_from_the_base() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.9)) + 0.5 * torch.log(torch.tensor(0.5 / 0.1))
    assert kl_to_base(q.log(), p.log()) == pytest.approx(float(expected))
    assert kl_to_base(p.log(), p.log()) == pytest.approx(0.0)


def test_the_shipped_recipes_can_be_read_and_a_misspelt_key_is_an_error(tmp_path: Path) -> None:
    recipes = CultureRecipe.read_all(ROOT / "adapters" / "cultures.yaml")
    assert len({recipe.culture for recipe in recipes}) == len(recipes) >= 4
    bad = tmp_path / "bad.yaml"
    bad.write_text("defaults: {rnak: 4}\ncultures: [{culture: a, countries: [AAA]}]")
    with pytest.raises(TrainingError, match="rnak"):
        CultureRecipe.read_all(bad)
