from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import pytest

from steer_server.errors import TrainingError
from steer_server.training.culture_recipe import CultureRecipe
from steer_server.training.survey_data import (
    SurveyBatches,
    SurveyQuestion,
    letter_example,
    pool_countries,
    random_example,
    read_survey,
    split_questions,
    words_example,
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


@pytest.mark.parametrize(
    "shares",
    [[0.5, 0.4], [1.0], [0.2, 0.3, 0.5], ["many", 1], [math.nan, 0.5], [1.2, -0.2], [math.inf, 0]],
)
def test_a_distribution_that_does_not_fit_is_an_error(tmp_path: Path, shares: list[float]) -> None:
    with pytest.raises(TrainingError, match=r"s\.gz:1"):
        read_survey(write_survey(tmp_path / "s.gz", [row("AAA", shares)]))


@pytest.mark.parametrize("text", ["", "{", '{"country": "AAA"}', "[1]"])
def test_rows_that_are_not_survey_rows_are_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"s\.jsonl"):
        read_survey(path)


def test_a_row_without_a_country_is_an_error_with_its_line(tmp_path: Path) -> None:
    rows = [row("AAA", [0.5, 0.5]), row("AAA", [0.5, 0.5])]
    del rows[1]["country"]
    with pytest.raises(TrainingError, match=r"s\.gz:2: KeyError 'country'"):
        read_survey(write_survey(tmp_path / "s.gz", rows))


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0b", "\x0c"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, mark: str) -> None:
    text = f"Tea,{mark}or not?"
    path = tmp_path / "s.jsonl"
    lines = [
        json.dumps({**row(country, [0.5, 0.5]), "question": text}, ensure_ascii=False) for country in "AB"
    ]
    # JSON itself escapes the last two.
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert {questions[0].question for questions in read_survey(path).values()} == {text}


def test_a_file_is_gzipped_or_not_whatever_its_name_says(tmp_path: Path) -> None:
    plain, packed = tmp_path / "s.jsonl.gz", tmp_path / "s.jsonl"
    plain.write_text(json.dumps(row("AAA", [0.5, 0.5])))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_survey(plain) == read_survey(packed)
    packed.write_bytes(packed.read_bytes()[:30])
    with pytest.raises(TrainingError, match=r"s\.jsonl"):
        read_survey(packed)


def test_a_csv_of_counts_is_a_survey(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("country,question,option,share\nvillage,Tea?,yes,30\nvillage,Tea?,no,10\n")
    (question,) = read_survey(path)["village"]
    assert question.options == ("yes", "no") and question.distribution == (0.75, 0.25)


def test_the_example_survey_can_be_trained_on_and_held_out_from() -> None:
    rows = read_survey(ROOT / "adapters" / "example_survey.csv")["night_owls"]
    training, held_out = split_questions(rows, CultureRecipe.held_out_share, CultureRecipe.seed)
    assert len(training) >= 15 and len(held_out) >= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("country,question,option\nv,Tea?,yes\n", "share"),
        ("country,question,option,share\nv,Tea?,yes,lots\n", r"own\.csv:2"),
        ("country,question,option,share\nv,Tea?,yes,3\nv,Tea?,no,-1\n", r"own\.csv:3: share: -1 is no share"),
        ("country,question,option,share\nv,Tea?,yes,nan\n", r"own\.csv:2: share: nan is no share"),
        ("country,question,option,share\nv,Tea?,yes,0\n", "sum to 0"),
    ],
)
def test_a_bad_csv_is_an_error_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_survey(path)


def test_an_unknown_country_is_an_error(tmp_path: Path) -> None:
    survey = read_survey(write_survey(tmp_path / "s.gz", [row("AAA", [1.0, 0.0])]))
    with pytest.raises(TrainingError, match="XXX"):
        pool_countries(survey, ["XXX"])


def test_letters_carry_the_share_of_the_option_behind_them() -> None:
    example = letter_example(TEA, [2, 0, 1])
    assert example.prompt.splitlines()[1:4] == ["A. neither", "B. tea", "C. coffee"]
    assert example.answers == ("A", "B", "C") and example.shares == (0.2, 0.5, 0.3)


def test_words_are_the_options_whole_texts() -> None:
    assert words_example(TEA).answers == ("tea.", "coffee.", "neither.")
    assert words_example(TEA, [1, 0, 2]).prompt == "Tea or coffee? Options: coffee; tea; neither."


def test_random_forms_come_in_all_orders_and_keep_their_shares() -> None:
    rng = random.Random(0)
    shares = dict(zip(TEA.options, TEA.distribution, strict=True))
    orders, forms = set(), set()
    for _ in range(200):
        example = random_example(TEA, 0.5, rng)
        forms.add((example.is_whole, "Options:" in example.prompt))
        if not example.is_whole:
            listed = tuple(line[3:] for line in example.prompt.splitlines()[1:4])
            orders.add(listed)
            assert example.shares == tuple(shares[option] for option in listed)
    assert len(orders) == 6 and forms == {(False, False), (True, True), (True, False)}


def test_an_epoch_asks_every_question_once_and_a_step_is_always_the_same() -> None:
    rows = [SurveyQuestion(f"Q{i}", f"Tea {i}?", ("a", "b"), (0.5, 0.5)) for i in range(10)]

    def batches() -> SurveyBatches:
        return SurveyBatches(rows, 4, 0.5, seed=1, num_tokens=lambda e: len(e.prompt))

    one, other = batches(), batches()
    assert one.steps_per_epoch == 3
    epoch = [example for step in range(3) for example in one[step]]
    assert len({e.prompt.split("?")[0] for e in epoch}) == len(epoch) == 10
    assert other[4] == one[4] and other[1] == epoch[len(one[0]) : len(one[0]) + len(other[1])]


def test_the_same_questions_are_held_out_for_every_culture() -> None:
    rows = [SurveyQuestion(f"Q{i}", "?", ("a", "b"), (0.5, 0.5)) for i in range(200)]
    training, held_out = split_questions(rows, 0.2, seed=1)
    assert len(training) + len(held_out) == 200 and 20 < len(held_out) < 60
    assert [r.question_id for r in split_questions(rows[::-1], 0.2, seed=1)[1]] == [
        r.question_id for r in held_out[::-1]
    ]
