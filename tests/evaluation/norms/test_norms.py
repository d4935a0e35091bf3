"""Judging stories on a server that knows its own cultures' norms and says yes to everything else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from steer_server.cli import app
from steer_server.errors import EvaluationError
from steer_server.evaluation.countries import alpha_3, country_name
from steer_server.evaluation.html import write_page
from steer_server.evaluation.norms.data import (
    LABELS,
    Story,
    read_stories,
    sample_by_country,
    without_names,
    without_question,
    word_baselines,
)
from steer_server.evaluation.norms.norms import NormsOptions, label_orders, run_norms
from steer_server.evaluation.norms.report import accuracy_table, country_table, sections
from tests.support.survey_server import SurveyServer, write_rows

COUNTRIES = ["france", "new_zealand", "Japan", "palestinian_territories"]
LEAK = {"yes": "kindly", "no": "rudely", "neutral": "quietly"}
"""Words that give the label away in every country."""


def rows(num_each: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "country": country,
            "story": f"Number {n} bows {LEAK[label]}. Is that acceptable?",
            "rule_of_thumb": f"The rule says {label}.",
            "label": label,
        }
        for country in COUNTRIES
        for n in range(num_each)
        for label in (LABELS[n % 3],)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "made-up.jsonl.gz", rows())


def belief(cultures: dict[str, float], before: str, option: str) -> float:
    """Unsteered: yes, unless told the rule. Steered, it knows the label."""
    truth = "yes"
    if cultures:
        truth = next(label for label, word in LEAK.items() if word in before)
    elif rule := re.search(r"The rule says (\w+)\.", before):
        truth = rule[1]
    return 0.8 if option.lower() == truth else 0.1


async def results_of(data: Path, fake: SurveyServer, **options: Any) -> dict[str, Any]:
    results, _ = await run_norms(NormsOptions(url="http://test", data=data, **options), fake.transport())
    return results


async def test_accuracies_are_of_the_judgements_and_stand_beside_what_the_words_give_away(
    data: Path, tmp_path: Path
) -> None:
    fake = SurveyServer({"islands": ["NZL", "JPN"]}, belief, first_letter_bonus=0.5)
    results = await results_of(data, fake)
    accuracy = {name: row["accuracy"] for name, row in results["rows"].items()}
    assert accuracy["majority"] == accuracy["base"] == accuracy["country"] == pytest.approx(1 / 3, abs=1e-3)
    assert accuracy["rule"] == accuracy["words"] == 1
    steered = results["rows_of_steered_countries"]
    assert steered["own"] | {"accuracy": 1.0, "worst_accuracy": 1.0, "stories": 12} == steered["own"]
    assert steered["base"]["accuracy"] == pytest.approx(1 / 3, abs=1e-3)
    assert results["countries"]["NZL"]["culture"] == "islands"
    assert results["countries"]["PSE"]["culture"] is None
    assert results["judged_as"]["base"] == {"yes": 1.0, "no": 0.0, "neutral": 0.0}
    assert results["headline"]["own_worst_country_accuracy"] == 1
    assert len(accuracy_table(results).rows) == 8
    assert len(country_table(results).rows) == 4
    assert len(country_table(results, all_countries=False).rows) == 2
    write_page(tmp_path / "page.html", "Norms", {}, sections(results))
    assert "<svg" in (tmp_path / "page.html").read_text()


async def test_a_tie_is_wrong_whatever_people_say(data: Path) -> None:
    """Preferred letters alone make ties, as every label has every letter once."""
    fake = SurveyServer({"islands": ["NZL"]}, lambda *_: 1 / 3, first_letter_bonus=0.7)
    results = await results_of(data, fake)
    assert results["rows"]["base"]["accuracy"] == 0
    assert results["judged_as"]["base"] == {"yes": 0.0, "no": 0.0, "neutral": 0.0}


async def test_answers_under_another_plan_end_the_evaluation_and_say_so(data: Path) -> None:
    fake = SurveyServer({"islands": ["NZL"]}, belief, applied=lambda plan: "another")
    with pytest.raises(EvaluationError, match="plan another was applied instead of"):
        await results_of(data, fake)


async def test_words_learn_from_known_stories_too_and_the_table_says_from_what(
    data: Path, tmp_path: Path
) -> None:
    one = write_rows(tmp_path / "one.jsonl.gz", [{**row, "country": "kenya"} for row in rows()[:6]])
    fake = SurveyServer({}, belief)
    alone = await results_of(one, fake)
    assert "words" not in alone["rows"] and "No rows of words" in accuracy_table(alone).caption
    helped = await results_of(one, fake, known=data)
    assert helped["rows"]["words"]["accuracy"] == 1
    assert "from the file's 6 stories and 24 of made-up.jsonl.gz." in accuracy_table(helped).caption
    own = await results_of(data, fake)
    assert "from the file's 24 stories only; --known FILE" in accuracy_table(own).caption


def test_the_command_takes_known_stories_and_prints_what_to_know_of_the_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_back = write_rows(tmp_path / "one.jsonl.gz", [{**row, "country": "atlantis"} for row in rows()])
    fake, real = SurveyServer({}, belief), httpx.AsyncClient
    monkeypatch.setattr(
        httpx, "AsyncClient", lambda **options: real(**{**options, "transport": fake.transport()})
    )
    command = ["eval", "norms", "--data", str(kept_back), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--known", str(data)])
    assert result.exit_code == 0, result.output
    *_, remark, headline = result.output.strip().splitlines()
    assert "named as in the file: atlantis" in remark and json.loads(headline)["words_accuracy"] == 1
    assert "24 stories and 24 of made-up.jsonl.gz." in " ".join(result.output.split())


async def test_a_country_that_is_not_on_the_list_keeps_its_name_and_is_remarked_on(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.gz", [*rows(), {**rows()[0], "country": "far_atlantis"}])
    fake = SurveyServer({}, belief)
    results = await results_of(data, fake)
    assert results["countries"]["far_atlantis"]["stories"] == 1
    assert "Not on the ISO list of countries, and named as in the file: far_atlantis." in results["remarks"]
    assert any("acceptable in far atlantis?" in json.dumps(body) for _, body in fake.requests)


async def test_only_one_row_names_the_country_and_only_one_gives_the_rule(data: Path) -> None:
    fake = SurveyServer({"islands": ["NZL"]}, belief)
    await results_of(data, fake, orders=1)
    asked = [body for path, body in fake.requests if path == "/v1/chat/completions"]
    texts = [body["messages"][-1]["content"] for body in asked]
    names = [country_name(alpha_3(c)) for c in COUNTRIES]
    named = [text for text in texts if any(name in text for name in names)]
    ruled = [text for text in texts if "rule of thumb" in text]
    # Base, own, rule and country; the same story of another country is the same request.
    assert len(named) == 24 and len(ruled) == 6 and not set(named) & set(ruled)
    assert not [text for text in texts if "Is that acceptable?" in text]
    steered = [body for body in asked if "cultures" in body["steering"]]
    assert len(steered) == 6


async def test_only_stories_of_steered_countries_are_asked_about_on_demand(data: Path) -> None:
    results = await results_of(data, SurveyServer({"islands": ["NZL", "JPN"]}, belief), steered_only=True)
    assert list(results["countries"]) == ["JPN", "NZL"]
    assert results["rows"]["words"]["accuracy"] == 1
    with pytest.raises(EvaluationError, match="no story of"):
        await results_of(data, SurveyServer({"moon": ["USA"]}, belief), steered_only=True)


async def test_a_failed_judgement_leaves_its_story_out_of_every_row(data: Path) -> None:
    fake = SurveyServer({"islands": ["NZL"]}, belief)

    def refuse(path: str, body: dict[str, Any]) -> Any:
        is_bad = "messages" in body and "New Zealand" in json.dumps(body) and "Number 2" in json.dumps(body)
        return httpx.Response(400, text="no") if is_bad else None

    fake.refuse = refuse
    results = await results_of(data, fake)
    assert results["num_dropped"] == 1 and results["requests"]["failed"] > 0
    assert results["countries"]["NZL"]["stories"] == 5
    assert results["rows_of_steered_countries"]["own"]["stories"] == 5
    assert "failed" in sections(results)[0].text


def test_three_orders_put_every_label_in_every_place_once() -> None:
    orders = label_orders(3, "seed")
    assert all(sorted(order[place] for order in orders) == [0, 1, 2] for place in range(3))
    assert len({tuple(order) for order in label_orders(6, "seed")}) == 6


def test_a_sample_draws_from_every_country_and_follows_from_the_seed(data: Path) -> None:
    stories = read_stories(data)
    chosen = sample_by_country(stories, 8, seed=1)
    assert chosen == sample_by_country(stories, 8, seed=1) == sorted(set(chosen))
    counted = [stories[i].country for i in chosen]
    assert {counted.count(country) for country in set(counted)} == {2}
    assert len(set(counted)) == len(COUNTRIES)
    assert sample_by_country(stories, 0, seed=1) == list(range(len(stories)))


def test_a_question_at_the_end_is_removed_and_names_are_masked() -> None:
    assert without_question("She waved. Then he left. Was it right?") == "She waved. Then he left."
    assert without_question("She waved.") == "She waved."
    assert without_question("Was it right?") == "Was it right?"
    assert without_names("Ada met old Björn in Rome.") == "X met old X in X."


def test_words_are_learnt_from_other_countries_only() -> None:
    """Words that mean the opposite in each country are worth nothing, however well they fit one country."""
    stories = [
        Story(country, f"they {word} there", "", label)
        for i, country in enumerate(["FRA", "JPN"])
        for word, label in (("bow", LABELS[i]), ("wave", LABELS[1 - i]))
        for _ in range(4)
    ]
    assert all(
        label != story.label
        for labels in word_baselines(stories).values()
        for label, story in zip(labels, stories, strict=True)
    )
    assert word_baselines(stories[:8]) == {}
    known = [story for story in stories if story.country == "JPN"]
    assert word_baselines(stories[:8], known) == {
        name: labels[:8] for name, labels in word_baselines(stories).items()
    }


def test_where_other_countries_have_one_label_the_words_say_it() -> None:
    stories = [
        Story("FRA", "they bow there", "", "yes"),
        Story("FRA", "they wave there", "", "yes"),
        Story("JPN", "they bow there", "", "no"),
        Story("JPN", "they wave there", "", "yes"),
    ]
    for labels in word_baselines(stories).values():
        assert labels[2:] == ["yes", "yes"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("saudi_arabia", "SAU"),
        ("russia", "RUS"),
        ("timor-leste", "TLS"),
        ("DEU", "DEU"),
        ("Vietnam", "VNM"),
        ("t\u00fcrkiye", "TUR"),
        ("tu\u0308rkiye", "TUR"),
        ("TURKIYE", "TUR"),
        ("uk", "GBR"),
        ("palestine", "PSE"),
        ("cote_d'ivoire", "CIV"),
    ],
)
def test_countries_are_known_by_the_names_that_data_sets_use(name: str, code: str) -> None:
    assert alpha_3(name) == code
    assert alpha_3(country_name(code)) == code


def test_a_name_that_is_no_countrys_has_no_code() -> None:
    assert alpha_3("atlantis") is None and country_name("far_atlantis") == "far atlantis"


@pytest.mark.parametrize(
    "change",
    [
        {"label": "maybe"},
        {"label": None},
        {"story": None},
        {"story": " "},
        {"rule_of_thumb": None},
        {"country": 3},
    ],
)
def test_a_row_that_is_no_judged_story_is_an_error_with_its_line(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (key,) = change
    bad = [rows()[0], {**rows()[0], **change}]
    with pytest.raises(EvaluationError, match=rf"bad\.jsonl\.gz:2: ValueError {key} is"):
        read_stories(write_rows(tmp_path / "bad.jsonl.gz", bad))
    del bad[1][key]
    with pytest.raises(EvaluationError, match=rf"bad\.jsonl\.gz:2: KeyError '{key}'"):
        read_stories(write_rows(tmp_path / "bad.jsonl.gz", bad))


def test_stories_need_not_be_gzipped_and_may_have_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows()))
    assert len(read_stories(path)) == len(rows())
    for text in ("{", "[1]", "", "\n"):
        path.write_text(text)
        with pytest.raises(EvaluationError, match=r"rows\.jsonl"):
            read_stories(path)
    with pytest.raises(EvaluationError, match="nowhere"):
        read_stories(tmp_path / "nowhere.jsonl.gz")
