"""What is asked of a file, by what is known of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import Culture
from steer_server.evaluation.distributions import uniform_bits
from steer_server.evaluation.survey.plan import SurveyOptions, SurveyRun, own_cultures, plan_run
from steer_server.evaluation.survey.trained import was_trained_on
from steer_server.training.survey_data import pool_countries, read_survey, split_questions
from tests.support.survey_server import write_rows

SEED, SHARE = 5, 0.4
NUM_QUESTIONS = 20
CULTURES = {"north": ("FRA", "ESP"), "east": ("JPN",), "small": ("FRA",)}
OFFERED = [Culture(c, countries, f"{c}@1.0.0") for c, countries in CULTURES.items()]


def rows(countries: str, texts: str = "trained", slope: float = 0.01) -> list[dict[str, Any]]:
    """Every country's answers are its own."""
    return [
        {
            "country": country,
            "question_id": f"Q{n}",
            "question": f"{texts} {n}?",
            "options": ["yes", "no"],
            "distribution": [share := 0.1 + slope * n + 0.05 * i, 1 - share],
        }
        for i, country in enumerate(countries.split())
        for n in range(NUM_QUESTIONS)
    ]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "trained.jsonl.gz", rows("FRA ESP JPN"))


@pytest.fixture
def adapters(tmp_path: Path, trained: Path) -> Path:
    """Recipes of all three cultures, as `train culture` records them."""
    survey = read_survey(trained)
    for culture, countries in CULTURES.items():
        _, held_out = split_questions(pool_countries(survey, countries), SHARE, SEED)
        recipe = {
            "countries": list(countries),
            "seed": SEED,
            "held_out_share": SHARE,
            "scores": {"uniform": uniform_bits([row.distribution for row in held_out])},
        }
        (tmp_path / "adapters" / culture).mkdir(parents=True)
        (tmp_path / "adapters" / culture / "recipe.json").write_text(json.dumps(recipe))
    return tmp_path / "adapters"


def run_of(data: Path, **options: Any) -> SurveyRun:
    settings = {"seed": SEED, "held_out_share": SHARE, "adapters": Path("nowhere"), **options}
    return plan_run(SurveyOptions(url="", data=data, **settings), OFFERED)


def test_a_country_belongs_to_the_culture_with_the_fewest_countries() -> None:
    assert own_cultures(OFFERED, [], ["FRA", "ESP", "JPN", "KEN"]) == {
        "ESP": "north",
        "FRA": "small",
        "JPN": "east",
    }
    assert own_cultures(OFFERED, ["north"], ["ESP", "FRA"]) == {"ESP": "north", "FRA": "north"}
    assert own_cultures(OFFERED, [], ["small"]) == {"small": "small"}, "a community that is no country"
    with pytest.raises(EvaluationError, match="no culture south"):
        own_cultures(OFFERED, ["south"], ["FRA"])


def test_the_file_that_was_trained_on_is_known_by_what_its_recipes_recorded(
    trained: Path, adapters: Path, tmp_path: Path
) -> None:
    recipe = json.loads((adapters / "north" / "recipe.json").read_text())
    assert was_trained_on(recipe, read_survey(trained))
    others = {
        "other countries": rows("KEN NLD"),
        "other questions": rows("FRA ESP JPN", texts="new", slope=0.02),
        "other answers": rows("FRA ESP JPN", slope=0.02),
    }
    for name, other in others.items():
        assert not was_trained_on(recipe, read_survey(write_rows(tmp_path / f"{name}.gz", other))), name


def test_by_default_only_the_file_that_was_trained_on_is_split(
    trained: Path, adapters: Path, tmp_path: Path
) -> None:
    run = run_of(trained, adapters=adapters)
    _, held_out = split_questions(read_survey(trained)["FRA"], SHARE, SEED)
    assert run.questions == "held-out" and {text for text, _ in run.asked} == {r.question for r in held_out}
    assert run.num_trained == NUM_QUESTIONS - len(held_out) > 0
    assert "as the cultures' recipes say. --questions all asks them too" in run.remarks[0]
    kept_back = write_rows(tmp_path / "kept-back.gz", rows("KEN FRA", texts="new", slope=0.02))
    run = run_of(kept_back, adapters=adapters)
    assert (run.questions, len(run.asked), run.num_trained) == ("all", NUM_QUESTIONS, 0)
    assert "no culture was trained on this file" in run.remarks[0]
    assert run_of(trained, adapters=adapters, questions="all").num_trained == 0


def test_a_file_that_may_have_been_trained_on_is_split_and_the_remark_says_why(trained: Path) -> None:
    run = run_of(trained)
    assert run.questions == "held-out" and "if this file is what was trained on" in run.remarks[0]
    assert "--known FILE" in run.remarks[0] and str(run.num_trained) in run.remarks[0]


def test_known_data_says_by_the_questions_texts_what_training_saw(trained: Path, tmp_path: Path) -> None:
    new = [{**row, "question_id": f"other {row['question_id']}"} for row in rows("FRA")]
    mixed = write_rows(tmp_path / "mixed.gz", [*new, *rows("FRA", texts="new")])
    run = run_of(mixed, known=trained)
    _, held_out = split_questions(read_survey(trained)["FRA"], SHARE, SEED)
    asked = {text for text, _ in run.asked}
    assert asked == {r.question for r in held_out} | {f"new {n}?" for n in range(NUM_QUESTIONS)}
    assert "training on trained.jsonl.gz saw them" in run.remarks[0]


def test_known_data_without_these_answers_leaves_nothing_out_and_counts_what_was_seen(
    trained: Path, tmp_path: Path
) -> None:
    """Training saw the questions, with other countries' answers."""
    kept_back = write_rows(tmp_path / "kept-back.gz", rows("KEN"))
    run = run_of(kept_back, known=trained)
    assert run.questions == "all" and len(run.asked) == NUM_QUESTIONS
    training, _ = split_questions(read_survey(trained)["FRA"], SHARE, SEED)
    assert f"Training saw {len(training)} of them" in run.remarks[0]
    assert len(run_of(kept_back, known=trained, questions="held-out").asked) == NUM_QUESTIONS - len(training)


def test_another_seed_or_share_than_trainings_is_an_error_that_gives_the_right_ones(
    trained: Path, adapters: Path
) -> None:
    for wrong in ({"seed": 6}, {"held_out_share": 0.2}):
        with pytest.raises(EvaluationError, match=f"--seed {SEED} --held-out-share {SHARE}"):
            run_of(trained, adapters=adapters, **wrong)
    path = adapters / "north" / "recipe.json"
    recipe = json.loads(path.read_text())
    path.write_text(json.dumps({**recipe, "start": {"seed": 6, "held_out_share": SHARE}}))
    with pytest.raises(EvaluationError, match="training of north held out other questions; give --seed 6"):
        run_of(trained, adapters=adapters)
    path.write_text("{")
    with pytest.raises(EvaluationError, match="cannot read"):
        run_of(trained, adapters=adapters)


def test_a_culture_alone_is_asked_about_its_countries_and_those_that_no_culture_lists(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.gz", rows("FRA ESP JPN KEN"))
    run = run_of(data, cultures=("east",), questions="all")
    assert run.countries == ["JPN", "KEN"] and run.own == {"JPN": "east"}
    assert run_of(data, questions="all").countries == ["ESP", "FRA", "JPN", "KEN"]
    only_theirs = write_rows(tmp_path / "theirs.gz", rows("FRA ESP"))
    with pytest.raises(EvaluationError, match=r"no country of theirs\.gz \(ESP, FRA\) is asked under east"):
        run_of(only_theirs, cultures=("east",))


@pytest.mark.parametrize(
    ("pair", "message"),
    [("USA=north", "no 'USA'"), ("FRA=south", "no 'south'"), ("FRA", "no ''"), ("north=FRA", "no 'north'")],
)
def test_a_wrong_map_is_an_error_that_says_what_there_is(trained: Path, pair: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        run_of(trained, mapped=(pair,))


def test_a_map_takes_precedence_over_what_cultures_list(trained: Path) -> None:
    assert run_of(trained, mapped=("FRA=north",)).own == {"ESP": "north", "FRA": "north", "JPN": "east"}


def test_baselines_learn_what_training_sees_of_the_file_and_everything_when_more_is_known(
    trained: Path, tmp_path: Path
) -> None:
    training, _ = split_questions(read_survey(trained)["FRA"], SHARE, SEED)
    run = run_of(trained)
    assert {text for text, _ in run.learnt["FRA"]} == {row.question for row in training}
    assert len(run_of(trained, questions="all").learnt["FRA"]) == NUM_QUESTIONS
    kept_back = write_rows(tmp_path / "kept-back.gz", rows("FRA KEN", texts="new"))
    run = run_of(kept_back, known=trained)
    assert {country: len(known) for country, known in run.learnt.items()} == {
        "FRA": 2 * NUM_QUESTIONS,
        "ESP": NUM_QUESTIONS,
        "JPN": NUM_QUESTIONS,
        "KEN": NUM_QUESTIONS,
    }
