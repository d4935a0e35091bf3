"""Win rates on a server that says what the test wants, judged by heads of a model of two layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from steer_server.cli import app
from steer_server.errors import EvaluationError
from steer_server.evaluation.html import write_page
from steer_server.evaluation.judges import Scorer, read_judges
from steer_server.evaluation.samples import Sampling
from steer_server.evaluation.win_rate.report import sections
from steer_server.evaluation.win_rate.win_rate import WinRateOptions, run_win_rate
from steer_server.training.trained_on import TRAINED_ON, trained_on_text
from tests.evaluation.conftest import JudgesPlace
from tests.evaluation.values_server import ValuesServer, said
from tests.support.adapters import list_text, random_adapter

NOISE = "base, other seed"


def server(**options: Any) -> ValuesServer:
    return ValuesServer({}, lambda cultures, before, option: 1.0, **options)


async def results_of(place: JudgesPlace, fake: ValuesServer, **options: Any) -> dict[str, Any]:
    given = WinRateOptions(
        url="http://test", data=place.data, judges=place.judges, shipped=place.shipped, **options
    )
    results, _ = await run_win_rate(given, place.base, place.settings.cache, fake.transport())
    return results


async def test_by_default_each_axis_and_a_blend_of_two_meet_the_base(
    place: JudgesPlace, tmp_path: Path
) -> None:
    results = await results_of(place, server(axes=["a", "b", "c"]), prompts=6)
    assert sorted(results["judges"]) == ["helpful", "polite"]
    for found in results["judges"].values():
        assert list(found["rows"]) == [NOISE, "a", "b", "c", "a + b"]
        assert found["prompts"]["asked"] == 6
        for row in found["rows"].values():
            assert row["win"] + row["tie"] + row["lose"] == row["prompts"] == 6 and row["dropped"] == 0
    assert results["settings"]["base"]["steering"] == {"method": "none"}
    # A prompt that fits both judges is answered once.
    assert results["answers"]["base"] == results["answers"]["a + b"] == {"answers": 11, "cut": 0, "empty": 0}
    assert "test_accuracy_of_the_judge" in results["headline"]["polite"]
    write_page(tmp_path / "page.html", "Win rates", {}, sections(results))
    assert (tmp_path / "page.html").read_text().count("<svg") == 2


async def test_a_row_is_what_the_judge_says_of_both_answers(place: JudgesPlace, tmp_path: Path) -> None:
    fake = server()
    results = await results_of(
        place, fake, settings=('kind={"values": {"helpful": 1}}',), only_judges=("polite",)
    )
    row = results["judges"]["polite"]["rows"]["kind"]
    asked = [body for path, body in fake.requests if path == "/v1/chat/completions"]
    prompts = list(dict.fromkeys(body["messages"][0]["content"] for body in asked))
    seed = Sampling().seed
    (judge,) = read_judges(place.judges, ("polite",), place.base, place.shipped)
    sides = [
        Scorer(place.base, tmp_path).scores(
            judge, [([{"role": "user", "content": p}], said(steering, p, s)) for p in prompts]
        )
        for steering, s in (({"values": {"helpful": 1}}, seed + 1), ({}, seed))
    ]
    wins = sides[0] > sides[1]
    assert (row["win"], row["lose"], row["tie"]) == (wins.sum(), (~wins).sum(), 0)
    assert row["mean_score_difference"] == pytest.approx((sides[0] - sides[1]).mean(), rel=1e-3)
    assert row["mean_tokens"] > row["other_mean_tokens"] and row["longer_share"] == 1


async def test_a_setting_that_changes_nothing_has_the_row_of_the_noise(place: JudgesPlace) -> None:
    results = await results_of(place, server(), settings=('nothing={"strength": 0}',))
    for found in results["judges"].values():
        assert found["rows"]["nothing"] == found["rows"][NOISE]


async def test_equal_texts_tie(place: JudgesPlace) -> None:
    fake = server(answer_of=lambda steering, prompt, seed: "the same")
    results = await results_of(place, fake, only_judges=("polite",))
    for row in results["judges"]["polite"]["rows"].values():
        assert row["tie"] == row["prompts"] and row["win_rate"] == row["length_controlled_win_rate"] == 0.5


async def test_another_reference_than_the_base_can_be_given(place: JudgesPlace) -> None:
    fake = server()
    results = await results_of(
        place,
        fake,
        against='firm={"values": {"harmless": 1}}',
        settings=('kind={"values": {"helpful": 1}}',),
        only_judges=("polite",),
    )
    assert list(results["judges"]["polite"]["rows"]) == ["firm, other seed", "kind"]
    sent = [body["steering"] for path, body in fake.requests if path == "/v1/chat/completions"]
    assert {"method": "none"} not in sent


async def test_requests_are_sampled_with_fixed_seeds(place: JudgesPlace) -> None:
    fake = server()
    sampling = Sampling(temperature=0.3, max_tokens=9, seed=50)
    await results_of(place, fake, sampling=sampling, only_judges=("polite",))
    sent = [body for path, body in fake.requests if path == "/v1/chat/completions"]
    assert {(body["temperature"], body["max_tokens"]) for body in sent} == {(0.3, 9)}
    base = {body["seed"] for body in sent if body["steering"] == {"method": "none"}}
    assert base == {50, 51} and {b["seed"] for b in sent if "values" in b["steering"]} == {51}


async def test_an_answer_under_another_plan_is_a_failure_and_not_a_result(place: JudgesPlace) -> None:
    fake = server(applied=lambda plan: "unsteered" if "helpful" in plan else plan)
    with pytest.raises(EvaluationError, match="plan unsteered was applied instead of"):
        await results_of(place, fake, settings=('kind={"values": {"helpful": 1}}',))


async def test_a_failed_answer_leaves_its_prompt_out_of_the_rows_that_need_it(place: JudgesPlace) -> None:
    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        is_bad = "harmless" in json.dumps(body["steering"]) and body["messages"][0]["content"] == bad[0]
        return httpx.Response(400, text="no") if is_bad else None

    fake, bad = server(), [""]
    await results_of(place, fake, only_judges=("polite",))
    bad = [fake.requests[0][1]["messages"][0]["content"]]
    results = await results_of(place, server(refuse=refuse), only_judges=("polite",))
    rows = results["judges"]["polite"]["rows"]
    assert {name: row["dropped"] for name, row in rows.items()} == {
        NOISE: 0,
        "helpful": 0,
        "harmless": 1,
        "helpful + harmless": 1,
    }
    assert results["requests"]["failed"] == 2
    assert "2 comparisons were left out" in sections(results)[0].text


async def test_what_may_have_been_trained_on_prompts_that_are_asked_is_said(
    place: JudgesPlace, tmp_path: Path
) -> None:
    shipped = Path(shutil.copytree(place.shipped, tmp_path / "adapters"))
    setting = ('kind={"values": {"helpful": 1}}',)
    results = await results_of(place, server(), settings=setting, only_judges=("polite",))
    assert results["unknown_training"] == ["values@1.0.0 (not in adapters)"]
    assert "Not known is what values@1.0.0 (not in adapters) was trained on" in sections(results)[0].text
    given = WinRateOptions(
        url="http://test",
        data=place.data,
        judges=place.judges,
        shipped=shipped,
        settings=setting,
        only_judges=("polite",),
    )

    async def unknown(adapters: dict[str, str]) -> list[str]:
        fake = server(adapters=adapters)
        results, _ = await run_win_rate(given, place.base, place.settings.cache, fake.transport())
        return list(results["unknown_training"])

    random_adapter(shipped, "values", place.base, axes=["helpful"])
    assert await unknown({}) == ["values@1.0.0 (no trained_on.txt)"]
    digest = list_text(shipped / "values", TRAINED_ON, trained_on_text(["something"])).digest
    assert await unknown({"values": digest}) == []
    assert await unknown({"values": "another"}) == [
        "values@1.0.0 (served from another folder than the one in adapters)"
    ]


async def test_a_server_without_value_axes_needs_settings(place: JudgesPlace) -> None:
    with pytest.raises(EvaluationError, match="no value axes; name what to compare with --setting"):
        await results_of(place, server(axes=[]))


@pytest.mark.parametrize("command", [["eval", "win-rate"], ["eval", "frozen"], ["bench", "rewards"]])
def test_a_directory_of_adapters_that_is_not_there_ends_the_command(
    place: JudgesPlace, command: list[str]
) -> None:
    given = ["--judges", str(place.judges), "--data", str(place.data), "--adapters", "nowhere"]
    result = CliRunner().invoke(app, [*command, *given])
    assert result.exit_code == 2 and "nowhere" in result.output


@pytest.fixture
def evaluate(
    place: JudgesPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ValuesServer], tuple[int, str, Path]]:
    """Runs the command against a fake server; gives exit code, output and the report's folder."""

    def run(fake: ValuesServer) -> tuple[int, str, Path]:
        real = httpx.AsyncClient

        def client(**options: Any) -> httpx.AsyncClient:
            return real(**{**options, "transport": fake.transport()})

        monkeypatch.setattr(httpx, "AsyncClient", client)
        monkeypatch.setenv("STEER_CACHE", str(place.settings.cache))
        command = [
            "eval",
            "win-rate",
            "--url",
            "http://test",
            "--judges",
            str(place.judges),
            "--data",
            str(place.data),
        ]
        command += ["--adapters", str(place.shipped), "--model", place.settings.model]
        command += ["--out", str(tmp_path / "out"), "--api-key", "secret-key"]
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
    assert "Not known is what values@1.0.0 (not in adapters) was trained on" in output
    assert {"hardware", "versions", "commit", "command", "server", "requests"} <= report.keys()
    page = (out / "report.html").read_text()
    assert "it is politer" in page and "by length alone" in page
    for text in (page, json.dumps(report)):
        assert "secret-key" not in text and "ask 1" not in text, "no key and no prompt is in a report"
    assert not [tag for tag in ("<script", "<link", 'src="', 'href="http', "url(http") if tag in page]


def test_many_failures_are_an_error_after_the_reports_are_written(
    evaluate: Callable[[ValuesServer], tuple[int, str, Path]],
) -> None:
    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        return httpx.Response(400, text="no") if "ask 1" in body["messages"][0]["content"] else None

    code, output, out = evaluate(server(refuse=refuse))
    assert code != 0 and "requests failed" in output
    assert json.loads((out / "report.json").read_text())["requests"]["failed"] > 0
