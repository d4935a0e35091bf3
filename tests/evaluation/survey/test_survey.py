"""The survey on a server whose answers are known: cultures that know their people, a base that does not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from steer_server.cli import app
from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Reader, Setting, lettered, option_orders, whole_answer
from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.distributions import entropy_bits, jensen_shannon_bits
from steer_server.evaluation.survey.plan import SurveyOptions
from steer_server.evaluation.survey.report import mean_tables, sections
from steer_server.evaluation.survey.scores import SurveyScores
from steer_server.evaluation.survey.survey import run_survey
from steer_server.training.survey_data import SurveyQuestion, read_survey, split_questions
from tests.support.servers import Running
from tests.support.survey_server import MASS, SurveyServer, write_rows

OPTIONS = ["Very much.", "Somewhat", "Not at all"]
PEOPLE = {"FRA": [0.7, 0.2, 0.1], "ESP": [0.6, 0.3, 0.1], "JPN": [0.1, 0.3, 0.6], "KEN": [0.2, 0.5, 0.3]}
CULTURES = {"north": ["FRA", "ESP"], "east": ["JPN"], "small": ["FRA"]}
KNOWN = {"north": [0.65, 0.25, 0.1], "east": [0.1, 0.3, 0.6], "small": [0.7, 0.2, 0.1]}
BASE = [0.3, 0.4, 0.3]
NUM_QUESTIONS = 10


def belief(cultures: dict[str, float], before: str, option: str) -> float:
    """Blends mix their cultures' answers; told a country, the model moves half-way to the first option."""
    index = next(i for i, o in enumerate(OPTIONS) if o.removesuffix(".") == option.removesuffix("."))
    if cultures:
        return sum(weight * KNOWN[c][index] for c, weight in cultures.items())
    if "You are a person living in" in before:
        return 0.5 * BASE[index] + 0.5 * (index == 0)
    return BASE[index]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(
        tmp_path / "made-up.jsonl.gz",
        (
            {
                "country": country,
                "question_id": f"M{n}",
                "question": f"How much do you like number {n}?",
                "options": OPTIONS,
                "distribution": shares,
            }
            for country, shares in PEOPLE.items()
            for n in range(NUM_QUESTIONS)
        ),
    )


def server(**options: Any) -> SurveyServer:
    return SurveyServer(CULTURES, belief, **options)


async def results_of(data: Path, fake: SurveyServer, **options: Any) -> dict[str, Any]:
    settings = SurveyOptions(url="http://test", data=data, **{"questions": "all", **options})
    results, _ = await run_survey(settings, fake.transport())
    return results


def bits(p: list[float], q: list[float]) -> float:
    return float(jensen_shannon_bits(np.array(p), np.array(q)))


async def test_every_row_is_what_the_answers_say_it_is(data: Path) -> None:
    results = await results_of(data, server())
    for readout in ("letters", "words"):
        found = results["readouts"][readout]
        scores = {c: values["jsd_bits"] for c, values in found["countries"].items()}
        assert list(scores) == ["ESP", "FRA", "JPN", "KEN"]
        spain = scores["ESP"]
        assert spain["base"] == pytest.approx(bits(BASE, PEOPLE["ESP"]), abs=1e-4)
        assert spain["own"] == pytest.approx(bits(KNOWN["north"], PEOPLE["ESP"]), abs=1e-4)
        assert spain["uniform"] == pytest.approx(bits([1 / 3] * 3, PEOPLE["ESP"]), abs=1e-4)
        others = np.mean([PEOPLE[c] for c in ("FRA", "JPN", "KEN")], axis=0)
        assert spain["pooled"] == pytest.approx(bits(list(others), PEOPLE["ESP"]), abs=1e-4)
        told = [0.5 * b + 0.5 * (i == 0) for i, b in enumerate(BASE)]
        assert spain["prompt"] == pytest.approx(bits(told, PEOPLE["ESP"]), abs=1e-4)
        assert spain["best other"] == pytest.approx(bits(KNOWN["small"], PEOPLE["ESP"]), abs=1e-4)
        own = found["rows"]["own"]
        # Over cultures: north has ESP here, small has FRA and east has JPN, which it knows exactly.
        assert own["jsd_bits"] == pytest.approx((spain["own"] + 0 + 0) / 3, abs=1e-4)
        assert own["worst_country"] == "ESP"
        assert own["entropy_bits"] == pytest.approx(
            np.mean([entropy_bits(np.array(KNOWN[c])) for c in CULTURES]), abs=1e-3
        )
        assert found["own_vs_base"]["own_below_uniform"]
        assert found["own_vs_others"]["beats_mean_other_share"] == 1
        assert found["matrix_without_own"]["KEN"]["east"] == pytest.approx(
            bits(KNOWN["east"], PEOPLE["KEN"]), abs=1e-4
        )
        assert "own" not in scores["KEN"]
        kenya = found["rows_without_own"]
        assert list(kenya) == ["uniform", "table", "pooled", "base", "prompt"]
        assert kenya["base"]["jsd_bits"] == pytest.approx(bits(BASE, PEOPLE["KEN"]), abs=1e-4)
        assert results["headline"][readout]["without_own_base_bits"] == kenya["base"]["jsd_bits"]
        assert found["diagnostics"]["settings"]["base"]["mass"] == pytest.approx(MASS, abs=1e-3)
    assert results["data"]["countries_without_a_culture"] == ["KEN"]


async def test_the_reduction_is_of_the_means_and_has_an_interval(data: Path) -> None:
    found = (await results_of(data, server(), readouts=("letters",)))["readouts"]["letters"]
    rows, gain = found["rows"], found["own_vs_base"]
    expected = 100 * (1 - rows["own"]["jsd_bits"] / rows["base"]["jsd_bits"])
    assert gain["reduction_percent"] == pytest.approx(expected, abs=0.2)
    low, high = gain["reduction_percent_95"]
    assert low <= gain["reduction_percent"] <= high


async def test_blends_of_the_most_different_cultures_land_between_them(data: Path) -> None:
    found = (await results_of(data, server(), pairs=2))["readouts"]["words"]["blends"]
    assert found["sweeps"][0]["pair"] == ["east", "small"]
    assert found["cases"] == found["resolved_cases"] == 4
    assert found["between_share"] == found["monotone_share"] == 1
    to_east = found["sweeps"][0]["to_ends"]["east"]
    assert to_east[0] == 0 and to_east[-1] == pytest.approx(bits(KNOWN["east"], KNOWN["small"]), abs=1e-4)
    middle = [(a + b) / 2 for a, b in zip(KNOWN["east"], KNOWN["small"], strict=True)]
    assert to_east[2] == pytest.approx(bits(middle, KNOWN["east"]), abs=1e-4)


async def test_a_preference_for_the_first_letter_is_averaged_over_orders(data: Path) -> None:
    """Each order is scored by itself, in the options' natural order."""
    found = await results_of(data, server(first_letter_bonus=1.0), readouts=("letters",))
    scored = found["readouts"]["letters"]["countries"]["JPN"]["jsd_bits"]["base"]

    def biased(order: list[int]) -> list[float]:
        powers = [BASE[i] * (math.e if i == order[0] else 1) for i in range(3)]
        return [p / sum(powers) for p in powers]

    expected = [bits(biased(order), PEOPLE["JPN"]) for order in ([0, 1, 2], [2, 1, 0])]
    assert scored == pytest.approx(np.mean(expected), abs=1e-4)


def test_orders_are_natural_reversed_then_random_and_follow_from_the_seed() -> None:
    orders = option_orders(5, 4, "seed")
    assert orders[:2] == [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]
    assert orders == option_orders(5, 4, "seed") and all(sorted(o) == orders[0] for o in orders)
    assert option_orders(5, 1, "seed") == [[0, 1, 2, 3, 4]]


def test_questions_are_put_in_the_forms_that_training_uses() -> None:
    assert lettered("Why?", ["So", "Not so"]) == "Why?\nA. So\nB. Not so\nAnswer with one letter."
    assert whole_answer("Very much.") == whole_answer("Very much") == "Very much."


async def test_a_letter_that_is_not_listed_gets_the_smallest_value_and_is_counted() -> None:
    fake = server(exact_letters=False)
    async with ServerClient("http://test", transport=fake.transport()) as client:
        logs, missing = await Reader(client, "tiny").letter_logprobs(
            Setting.of_blend("north", {"north": 1.0}), "How much?", OPTIONS
        )
    assert missing == 1
    assert np.exp(logs) == pytest.approx([0.65 * MASS, 0.25 * MASS, 0.25 * MASS])


async def test_the_base_and_each_culture_are_asked_a_question_once_for_all_countries(data: Path) -> None:
    fake = server()
    await results_of(data, fake, pairs=0, readouts=("words",))
    asked = [json.dumps(body) for path, body in fake.requests if path == "/v1/completions"]
    assert len(asked) == len(set(asked)) == NUM_QUESTIONS * (1 + len(CULTURES) + len(PEOPLE))


async def test_held_out_questions_are_those_that_training_holds_out(data: Path) -> None:
    results = await results_of(data, server(), questions="held-out", seed=3, held_out_share=0.4)
    rows = read_survey(data)["FRA"]
    _, held_out = split_questions(rows, 0.4, 3)
    assert 0 < results["data"]["num_questions"] == len(held_out) < NUM_QUESTIONS
    left_out = (
        f"{NUM_QUESTIONS - len(held_out)} of {NUM_QUESTIONS} questions of made-up.jsonl.gz were left out"
    )
    assert left_out in results["remarks"][0] and "--questions all" in results["remarks"][0]
    assert left_out in sections(results)[0].text


async def test_a_country_that_is_alone_in_the_data_has_no_pooled_row(tmp_path: Path) -> None:
    question = {"question_id": "M", "question": "Well?", "options": OPTIONS, "distribution": PEOPLE["JPN"]}
    data = write_rows(tmp_path / "one.jsonl.gz", [{"country": "JPN", **question}])
    results = await results_of(data, server(), readouts=("letters",))
    rows = results["readouts"]["letters"]["rows"]
    assert "pooled" not in rows and rows["own"]["jsd_bits"] == 0


async def test_a_file_of_countries_that_no_culture_lists_has_every_row_but_the_own(data: Path) -> None:
    results = await results_of(data, SurveyServer({"far": ["NLD"]}, lambda *_: 0.5), readouts=("words",))
    found = results["readouts"]["words"]
    assert found["rows"] == {} and found["own_vs_base"] is None and list(found["countries"]) == sorted(PEOPLE)
    assert found["rows_without_own"]["pooled"]["jsd_bits"] > 0
    assert "No culture lists ESP, FRA, JPN, KEN" in " ".join(results["remarks"])
    assert "No culture lists ESP" in sections(results)[0].text
    (table,) = mean_tables(results)
    assert "without" in table.caption


async def test_a_country_may_be_asked_under_a_culture_that_does_not_list_it(data: Path) -> None:
    results = await results_of(data, server(), readouts=("words",), mapped=("KEN=east",))
    found = results["readouts"]["words"]
    assert found["countries"]["KEN"]["culture"] == "east" and found["rows_without_own"] == {}
    assert found["countries"]["KEN"]["jsd_bits"]["own"] == pytest.approx(
        bits(KNOWN["east"], PEOPLE["KEN"]), abs=1e-4
    )
    assert "does not list it: KEN (east)" in " ".join(results["remarks"])


async def test_baselines_learn_from_what_was_trained_on_beside_the_file(data: Path, tmp_path: Path) -> None:
    """A file with one row knows nothing by itself."""
    question = {"question": "How much do you like number 3?", "options": OPTIONS, "question_id": "X"}
    kept_back = write_rows(
        tmp_path / "kept-back.jsonl.gz",
        [{"country": "JPN", **question, "distribution": [0.2, 0.4, 0.4]}],
    )
    alone = await results_of(kept_back, server(), readouts=("words",))
    scores = alone["readouts"]["words"]["countries"]["JPN"]["jsd_bits"]
    assert "pooled" not in scores and scores["table"] == scores["uniform"]
    assert "from the file's 1 rows only; --known FILE" in mean_tables(alone)[0].caption
    helped = await results_of(kept_back, server(), readouts=("words",), known=data)
    scores = helped["readouts"]["words"]["countries"]["JPN"]["jsd_bits"]
    others = np.mean([PEOPLE[c] for c in ("FRA", "ESP", "KEN")], axis=0)
    assert scores["pooled"] == pytest.approx(bits(list(others), [0.2, 0.4, 0.4]), abs=1e-4)
    assert scores["table"] == pytest.approx(bits(PEOPLE["JPN"], [0.2, 0.4, 0.4]), abs=1e-4)
    assert "from the file's 1 rows and 40 of made-up.jsonl.gz." in mean_tables(helped)[0].caption


async def test_answers_under_another_plan_end_the_evaluation_and_say_so(data: Path) -> None:
    fake = server(applied=lambda plan: "unsteered" if "north" in plan else plan)
    with pytest.raises(EvaluationError, match="plan unsteered was applied instead of"):
        await results_of(data, fake)


async def test_a_culture_with_the_name_of_a_row_is_refused(data: Path) -> None:
    with pytest.raises(EvaluationError, match="name of a row"):
        await results_of(data, SurveyServer({"base": ["JPN"]}, belief))


@pytest.fixture
def evaluate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, Path]]:
    """Runs the command against a fake server; gives exit code, output and the report's folder."""

    def run(fake: SurveyServer, *further: str) -> tuple[int, str, Path]:
        real = httpx.AsyncClient

        def client(**options: Any) -> httpx.AsyncClient:
            return real(**{**options, "transport": fake.transport()})

        monkeypatch.setattr(httpx, "AsyncClient", client)
        command = [
            "eval",
            "survey",
            "--data",
            str(data),
            "--out",
            str(tmp_path / "out"),
            "--questions",
            "all",
        ]
        command += ["--api-key", "secret-key", *further]
        monkeypatch.setattr("sys.argv", ["steer-server", *command])
        result = CliRunner().invoke(app, command)
        return result.exit_code, result.output + repr(result.exception), tmp_path / "out"

    return run


def test_the_command_writes_both_reports_and_prints_the_headline_last(
    evaluate: Callable[..., tuple[int, str, Path]],
) -> None:
    code, output, out = evaluate(server())
    assert code == 0, output
    report = json.loads((out / "report.json").read_text())
    headline = json.loads(output.removesuffix("None").strip().splitlines()[-1])
    assert headline == report["headline"]
    assert headline["letters"]["own_bits"] < headline["letters"]["base_bits"]
    assert {"hardware", "versions", "commit", "command", "server"} <= report.keys()
    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 6 and "currentColor" in page
    for text in (page, json.dumps(report)):
        assert "secret-key" not in text
    assert not [tag for tag in ("<script", "<link", 'src="', 'href="http', "url(http") if tag in page]


def test_the_command_names_what_is_known_and_who_is_asked_under_what(
    evaluate: Callable[..., tuple[int, str, Path]], data: Path
) -> None:
    code, output, _ = evaluate(server(), "--known", str(data), "--map", "KEN=east", "--readout", "words")
    assert code == 0, output
    assert "asked under a culture that does not list it: KEN (east)" in output
    assert "40 rows and 40 of made-up.jsonl.gz" in " ".join(output.split())
    code, output, _ = evaluate(server(), "--map", "KEN=west")
    assert code != 0 and "no 'west'" in output


def test_failed_requests_are_listed_their_questions_left_out_and_the_exit_code_says_so(
    evaluate: Callable[..., tuple[int, str, Path]],
) -> None:
    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        is_bad = path == "/v1/completions" and "east" in body["steering"].get("cultures", {})
        text = "".join(map(chr, body["prompt"][0])) if is_bad else ""
        return httpx.Response(400, text="too odd") if "number 3" in text else None

    code, output, out = evaluate(server(refuse=refuse))
    assert code != 0 and "requests failed" in output
    report = json.loads((out / "report.json").read_text())
    assert report["requests"]["failed"] == len(report["requests"]["failures"]) > 0
    assert report["readouts"]["words"]["countries"]["ESP"] == report["readouts"]["words"]["countries"][
        "ESP"
    ] | {"questions": NUM_QUESTIONS - 1, "dropped": 1}
    assert report["readouts"]["letters"]["countries"]["ESP"]["dropped"] == 0
    page = (out / "report.html").read_text()
    assert "requests failed" in page
    for text in (output, page):
        assert "By words, 4 of 40 answers of countries to questions were left out" in text
    assert "4 of 40 questions or texts were left out of the scores" in output


async def test_an_engine_without_log_probabilities_is_an_error_that_says_what_failed(
    fake: Running, data: Path, tmp_path: Path
) -> None:
    countries = {c: i for i, c in enumerate(PEOPLE)}
    async with ServerClient(fake.url) as client:
        listed = [country for c in (await client.info()).cultures for country in c.countries]
    rows = [
        {"country": country, "question_id": "M", "question": "?", "options": OPTIONS, "distribution": BASE}
        for country in [*listed, *countries]
    ]
    data = write_rows(tmp_path / "rows.jsonl.gz", rows)
    options = SurveyOptions(url=fake.url, data=data, questions="all")
    with pytest.raises(EvaluationError, match="requests failed, first"):
        await run_survey(options)


def test_the_table_knows_other_questions_with_the_same_options_and_is_uniform_without() -> None:
    def row(text: str, *shares: float, options: tuple[str, ...] = ("yes", "no")) -> SurveyQuestion:
        return SurveyQuestion(text, text, options, shares)

    rows = [row("a", 0.8, 0.2), row("b", 0.4, 0.6), row("c", 0.1, 0.2, 0.7, options=("x", "y", "z"))]
    learnt = {"ESP": {(row.question, row.options): row for row in rows}}
    scores = SurveyScores([], {}, [], {}, [], {}, learnt)
    assert scores.table("ESP", ("new", ("yes", "no"))) == pytest.approx([0.6, 0.4])
    assert scores.table("ESP", ("a", ("yes", "no"))) == pytest.approx([0.4, 0.6])
    assert scores.table("ESP", ("new", ("u", "v"))) == pytest.approx([0.5, 0.5])
    assert scores.table("FRA", ("new", ("yes", "no"))) == pytest.approx([0.5, 0.5])
