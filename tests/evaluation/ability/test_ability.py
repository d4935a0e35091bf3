"""Ability on a server whose steered answers know less than the base's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from steer_server.cli import app
from steer_server.errors import EvaluationError
from steer_server.evaluation.ability.ability import ROTATIONS, AbilityOptions, run_ability
from steer_server.evaluation.ability.common_knowledge import QUESTIONS
from tests.evaluation.values_server import ValuesServer
from tests.support.servers import Running

RIGHT = {question.text: question.right for question in QUESTIONS}
CULTURES = {"amber": ["FRA"], "blue": ["JPN"], "coral": ["KEN"]}


def belief(cultures: dict[str, float], before: str, option: str) -> float:
    """The base knows everything; amber believes in the option with the longest name."""
    question = next(text for text in RIGHT if text in before)
    is_right = RIGHT[question] == option
    if "amber" in cultures and len(cultures) == 1:
        options = next(q.options for q in QUESTIONS if q.text == question)
        return 0.7 if option == max(options, key=len) else 0.1
    return 0.7 if is_right else 0.1


class AbilityServer(ValuesServer):
    """Plain text is a prompt of tokens without a question: each costs one nat, two under blue."""

    def _words(self, body: dict[str, Any]) -> dict[str, Any]:
        text = "".join(map(chr, body["prompt"][0]))
        if any(question in text for question in RIGHT):
            return super()._words(body)
        cost = 2.0 if body["steering"].get("cultures") == {"blue": 1.0} else 1.0
        (tokens,) = body["prompt"]
        positions = [None, *({str(token): {"logprob": -cost}} for token in tokens[1:])]
        return {"choices": [{"index": 0, "prompt_logprobs": positions}]}


def server(**options: Any) -> AbilityServer:
    return AbilityServer(CULTURES, belief, **{"axes": [], **options})


async def results_of(fake: ValuesServer, **options: Any) -> dict[str, Any]:
    results, _ = await run_ability(AbilityOptions(url="http://test", **options), fake.transport())
    return results


async def test_every_setting_stands_beside_the_base_and_the_worst_is_named() -> None:
    results = await results_of(server(axes=["calm"]), limit=20)
    rows = results["rows"]
    assert list(rows) == ["base", "amber", "blue", "coral", "calm", "amber + blue + coral"]
    assert rows["base"]["text"]["perplexity"] == pytest.approx(math.e, abs=1e-3)
    assert rows["blue"]["text"]["ratio_to_base"] == pytest.approx(math.e, abs=1e-3)
    assert rows["coral"]["text"]["ratio_to_base_95"] == [1, 1]
    for readout in ("letters", "words"):
        assert rows["base"][readout]["accuracy"] == 1 and rows["amber"][readout]["accuracy"] < 0.7
        assert rows["amber"][readout]["difference_from_base"] == pytest.approx(
            rows["amber"][readout]["accuracy"] - 1
        )
        assert rows["base"][readout]["mean_share_of_the_right_option"] == pytest.approx(0.7)
        assert results["worst"][readout]["setting"] == "amber"
    assert results["worst"]["perplexity"]["setting"] == "blue"
    assert results["headline"]["worst"] == results["worst"] and results["chance"] == 0.25


async def test_each_option_has_each_letter_once_so_that_a_preferred_letter_is_worth_nothing() -> None:
    assert all(sorted(order[place] for order in ROTATIONS) == [0, 1, 2, 3] for place in range(4))
    fake = AbilityServer(CULTURES, lambda cultures, before, option: 0.25, first_letter_bonus=3.0, axes=[])
    results = await results_of(fake, settings=('x={"cultures": {"amber": 1}}',), limit=8)
    for name in ("base", "x"):
        assert results["rows"][name]["letters"]["mean_share_of_the_right_option"] == pytest.approx(0.25)


async def test_given_settings_replace_the_offered_ones_and_the_base_stays() -> None:
    results = await results_of(server(), settings=('half={"cultures": {"blue": 0.5}}',), limit=3)
    assert list(results["rows"]) == ["base", "half"]
    assert results["data"] == {"passages": 3, "questions": 3, "seed": 20261121}
    with pytest.raises(EvaluationError, match="the name base"):
        await results_of(server(), settings=('base={"cultures": {"blue": 1}}',))


async def test_a_server_without_adapters_is_measured_by_itself() -> None:
    results = await results_of(AbilityServer({}, belief, axes=[]), limit=4)
    assert list(results["rows"]) == ["base"] and results["worst"] == {}


async def test_a_failed_question_is_left_out_under_every_setting_and_counted() -> None:
    text = QUESTIONS[0].text

    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        is_bad = (
            "messages" in body and "steering" in body and body["steering"].get("cultures") == {"blue": 1.0}
        )
        return httpx.Response(400, text="no") if is_bad and text in json.dumps(body) else None

    results = await results_of(server(refuse=refuse), limit=10)
    assert results["dropped"] == {"passages": 0, "letters": 1, "words": 0}
    assert {row["letters"]["questions"] for row in results["rows"].values()} == {9}
    assert {row["words"]["questions"] for row in results["rows"].values()} == {10}


async def test_an_answer_under_another_plan_is_a_failure_and_not_a_result() -> None:
    fake = server(applied=lambda plan: "unsteered" if "blue" in plan else plan)
    with pytest.raises(EvaluationError, match="plan unsteered was applied instead of"):
        await results_of(fake, limit=3)


async def test_an_engine_without_log_probabilities_is_an_error_that_says_what_failed(fake: Running) -> None:
    with pytest.raises(EvaluationError, match="requests failed, first"):
        await run_ability(AbilityOptions(url=fake.url, limit=2))


@pytest.fixture
def evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ValuesServer], tuple[int, str, Path]]:
    """Runs the command against a fake server; gives exit code, output and the report's folder."""

    def run(fake: ValuesServer) -> tuple[int, str, Path]:
        real = httpx.AsyncClient

        def client(**options: Any) -> httpx.AsyncClient:
            return real(**{**options, "transport": fake.transport()})

        monkeypatch.setattr(httpx, "AsyncClient", client)
        command = ["eval", "ability", "--url", "http://test", "--out", str(tmp_path / "out"), "--limit", "6"]
        monkeypatch.setattr("sys.argv", ["steer-server", *command])
        result = CliRunner().invoke(app, command)
        return result.exit_code, result.output + repr(result.exception), tmp_path / "out"

    return run


def test_the_command_writes_both_reports_and_prints_the_headline_last(
    evaluate: Callable[[ValuesServer], tuple[int, str, Path]],
) -> None:
    code, output, out = evaluate(server())
    assert code == 0, output
    report = json.loads((out / "report.json").read_text())
    assert json.loads(output.removesuffix("None").strip().splitlines()[-1]) == report["headline"]
    assert {"hardware", "versions", "commit", "command", "server", "requests"} <= report.keys()
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2 and "Worst: perplexity blue" in page
    assert not [tag for tag in ("<script", "<link", 'src="', 'href="http', "url(http") if tag in page]


def test_many_failures_are_an_error_after_the_reports_are_written(
    evaluate: Callable[[ValuesServer], tuple[int, str, Path]],
) -> None:
    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        is_bad = path == "/v1/completions" and QUESTIONS[0].text in "".join(map(chr, body["prompt"][0]))
        return httpx.Response(400, text="no") if is_bad else None

    code, output, out = evaluate(server(refuse=refuse))
    assert code != 0 and "1 of 6 questions or texts were left out" in output
    assert "0 of letters, 1 of words" in " ".join(output.split()), "also in the printed table"
    assert json.loads((out / "report.json").read_text())["dropped"]["words"] == 1
    assert (
        "left out under every setting: 0 of passages, 0 of letters, 1 of words"
        in (out / "report.html").read_text()
    )
