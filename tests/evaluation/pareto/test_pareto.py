"""Sweeps on a server whose preferences are known: it follows the weights, or it does not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from steer_server.cli import app
from steer_server.errors import EvaluationError, TrainingError
from steer_server.evaluation.pareto.pareto import ParetoOptions, run_pareto
from steer_server.evaluation.pareto.report import (
    axis_table,
    front_table,
    pair_table,
    response_table,
    verdict_lines,
)
from tests.evaluation.pareto.pareto_server import AXES, CHOSEN, REJECTED, Lift, ParetoServer
from tests.support.survey_server import write_rows

BETA = {"kind": 0.1, "brief": 0.1, "bold": 0.5}
NUM_ROWS = 40
NUM_PAIRS = 5
SOUPS = {f"small-{axis}": [] for axis in AXES}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three axes; the last has dialogues of several turns."""
    folder = tmp_path / "data"
    folder.mkdir()
    for axis in AXES[:2]:
        rows = [
            {"prompt": f"Be {axis}, number {n}.", "chosen": CHOSEN, "rejected": REJECTED}
            for n in range(NUM_ROWS)
        ]
        write_rows(folder / f"{axis}.jsonl.gz", rows)
    before = "\n\nHuman: Hello, {n}.\n\nAssistant: Hello.\n\nHuman: Be bold, please.\n\nAssistant: "
    dialogues = [
        {kind: before.format(n=n) + text for kind, text in (("chosen", CHOSEN), ("rejected", REJECTED))}
        for n in range(NUM_ROWS)
    ]
    write_rows(folder / "bold.jsonl.gz", dialogues)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    sources = {
        axis: {
            "file": f"{axis}.jsonl.gz",
            "reader": "hh" if axis == "bold" else "choices",
            "source": "made up",
            "licence": "none",
        }
        for axis in AXES
    }
    axes = [
        {"axis": axis, "description": f"Is {axis}.", "sources": [axis], "beta": BETA[axis]} for axis in AXES
    ]
    training = {"held_out_share": 0.5}
    path.write_text(yaml.safe_dump({"name": "small", "training": training, "sources": sources, "axes": axes}))
    return path


def follows(steering: dict[str, Any], system: str, axis: str) -> float:
    """20 nats x the axis' weight by preference vector, 10 by soup, 5 when told; others cost 2 nats each."""
    if "values" in steering:
        weights = steering["values"]
        return 20 * weights.get(axis, 0.0) - 2 * sum(w for a, w in weights.items() if a != axis)
    if "cultures" in steering:
        return 10 * float(steering["cultures"].get(f"small-{axis}", 0.0))
    told = re.search(rf"(\d+) % {axis}", system)
    return 5 * float(told[1]) / 100 if told else 0.0


def server(lift: Lift = follows, **options: Any) -> ParetoServer:
    return ParetoServer(options.pop("cultures", SOUPS), lambda *_: 0.0, lift=lift, **options)


async def results_of(recipe: Path, data: Path, fake: ParetoServer, **options: Any) -> dict[str, Any]:
    given = {"points": 5, "pairs": NUM_PAIRS, **options}
    settings = ParetoOptions(url="http://test", recipe=recipe, data=data, **given)
    results, _ = await run_pareto(settings, fake.transport())
    return results


def objective(axis: str, delta: float) -> float:
    return 1 / (1 + math.exp(-BETA[axis] * delta))


async def test_every_method_gets_the_objectives_that_its_answers_give(recipe: Path, data: Path) -> None:
    results = await results_of(recipe, data, server())
    assert [result["pair"] for result in results["pairs"]] == [
        ["kind", "brief"],
        ["kind", "bold"],
        ["brief", "bold"],
    ]
    methods = results["pairs"][1]["methods"]
    for n, weight in enumerate((1, 0.75, 0.5, 0.25, 0)):
        vector = {"kind": weight, "bold": 1 - weight}
        for axis, w in vector.items():
            panacea, soup, told = (
                methods[m]["points"][n][axis]["objective"] for m in ("panacea", "soup", "prompt")
            )
            assert panacea == pytest.approx(objective(axis, 20 * w - 2 * (1 - w)), abs=1e-6)
            assert soup == pytest.approx(objective(axis, 10 * w), abs=1e-6)
            assert told == pytest.approx(objective(axis, 5 * w), abs=1e-6)
    assert all(values["objective"] == 0.5 for values in results["base"].values())
    assert all(values["likelihood_accuracy"] == 0 for values in results["base"].values())
    assert results["headline"]["least_spearman"] == 1 and results["headline"]["spearman_holds"] is True
    assert results["headline"]["above_soup_holds"] is True
    assert results["remarks"] == [] and results["requests"]["failed"] == 0


async def test_each_distinct_vector_is_asked_once_where_a_pair_needs_it(recipe: Path, data: Path) -> None:
    fake = server()
    results = await results_of(recipe, data, fake)
    asked = [json.dumps(body, sort_keys=True) for path, body in fake.requests if path == "/v1/completions"]
    assert len(asked) == len(set(asked)) == results["cost"]["requests"]
    # Per method three vertices on three axes, and three vectors inside three pairs on two axes.
    cells = 3 + 3 * (3 * 3 + 3 * 3 * 2)
    assert results["cost"] | {"requests": cells * NUM_PAIRS, "settings": 1 + 3 * (3 + 9)} == results["cost"]
    bodies = [json.loads(text) for text in asked]
    assert results["cost"]["tokens"] == sum(len(tokens) for body in bodies for tokens in body["prompt"])
    assert {len(body["prompt"]) for body in bodies} == {2}


async def test_a_sweep_that_turns_round_is_noticed(recipe: Path, data: Path) -> None:
    def turns(steering: dict[str, Any], system: str, axis: str) -> float:
        weight = float(steering.get("values", {}).get(axis, 0.0))
        return 10 * (weight if axis != "brief" or weight < 0.8 else 0.4)

    results = await results_of(recipe, data, server(turns))
    kind, brief = (results["pairs"][0]["methods"]["panacea"]["response"][a] for a in ("kind", "brief"))
    assert kind == {"spearman": 1.0, "is_monotone": True}
    # Weights 0, .25, .5, .75, 1 give 0, .25, .5, .75, .4: ranks 1 2 4 5 3.
    assert brief == {"spearman": 0.7, "is_monotone": False}
    spearman, _ = results["verdicts"]
    assert spearman["holds"] is False and spearman["least_spearman"] == 0.7
    assert "4 of 6 reach it, lowest 0.700 (brief in" in verdict_lines(results)[0]


async def test_without_soups_the_verdict_is_open_and_a_remark_says_what_is_missing(
    recipe: Path, data: Path
) -> None:
    results = await results_of(recipe, data, server(cultures={}))
    assert "soup" not in results["pairs"][0]["methods"]
    assert results["verdicts"][1]["holds"] is None
    assert "no culture small-kind, small-brief, small-bold" in results["remarks"][0]
    assert verdict_lines(results)[1].endswith("open; not measured, no soups are served")


async def test_a_template_without_system_turns_leaves_out_prompts_only(recipe: Path, data: Path) -> None:
    results = await results_of(recipe, data, server(has_system_turns=False))
    assert set(results["pairs"][0]["methods"]) == {"panacea", "soup"}
    assert "takes no system turn" in results["remarks"][0]
    assert results["requests"]["failed"] == 1


async def test_failed_preference_pairs_are_counted_and_left_out_of_every_sweep(
    recipe: Path, data: Path
) -> None:
    spoilt: set[str] = set()

    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        if path != "/v1/completions" or body["steering"].get("values") != {"kind": 0.5, "brief": 0.5}:
            return None
        text = "".join(map(chr, body["prompt"][0]))
        if "Be kind" not in text or spoilt - {text}:
            return None
        spoilt.add(text)
        return httpx.Response(400, text="too odd")

    results = await results_of(recipe, data, server(refuse=refuse))
    kind, brief = (results["data"]["axes"][axis] for axis in ("kind", "brief"))
    assert (kind["asked"], kind["scored"], kind["dropped"]) == (NUM_PAIRS, NUM_PAIRS - 1, 1)
    assert brief["dropped"] == 0
    assert results["requests"]["failed"] == len(results["requests"]["failures"]) == 1
    assert "number" not in json.dumps(results["requests"]), "no text of the data"


async def test_an_axis_that_is_never_answered_is_an_error_that_says_what_failed(
    recipe: Path, data: Path
) -> None:
    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        return httpx.Response(400, text="too odd") if "values" in body.get("steering", {}) else None

    with pytest.raises(EvaluationError, match="requests failed, first: /v1/completions: 400: too odd"):
        await results_of(recipe, data, server(refuse=refuse))


async def test_an_answer_under_another_plan_is_a_failure_and_not_a_result(recipe: Path, data: Path) -> None:
    fake = server(applied=lambda plan: "unsteered" if '"bold": 0.5' in plan else plan)
    with pytest.raises(EvaluationError, match="plan unsteered was applied instead of"):
        await results_of(recipe, data, fake)


async def test_the_pairs_of_training_are_left_out_unless_all_are_asked(recipe: Path, data: Path) -> None:
    held_out = (await results_of(recipe, data, server(), pairs=0))["data"]["axes"]["kind"]
    assert held_out["in_data"] == NUM_ROWS == held_out["left_out_as_training"] + held_out["scored"]
    assert 0 < held_out["scored"] < NUM_ROWS and held_out["left_out_as_near_copies"] == 0
    results = await results_of(recipe, data, server(), pairs=0, split="all")
    every = results["data"]["axes"]["kind"]
    assert every["in_data"] == every["scored"] == NUM_ROWS and every["left_out_as_training"] == 0
    assert "none is left out" in pair_table(results).caption


async def test_near_copies_of_what_is_trained_on_are_left_out_and_counted(recipe: Path, data: Path) -> None:
    rows = [
        {"prompt": f"Be kind, number {n // 2}{'!' * (n % 2)}", "chosen": CHOSEN, "rejected": REJECTED}
        for n in range(2 * NUM_ROWS)
    ]
    write_rows(data / "kind.jsonl.gz", rows)
    found = (await results_of(recipe, data, server(), pairs=0))["data"]["axes"]["kind"]
    assert found["left_out_as_near_copies"] > 10 and found["scored"] > 0
    parts = ("left_out_as_training", "left_out_as_near_copies", "scored")
    assert sum(found[part] for part in parts) == found["in_data"] == 2 * NUM_ROWS


async def test_what_needs_no_model_stands_beside_each_axis(recipe: Path, data: Path) -> None:
    for split in ("held-out", "all"):
        results = await results_of(recipe, data, server(), split=split)
        for axis in AXES:
            # `good` is longer than `bad`, and always the chosen one.
            found = results["data"]["axes"][axis]["baselines"]
            assert found == {"longer": 1.0, "shorter": 0.0, "bag_of_words": 1.0}
        first, *_ = axis_table(results).rows
        assert first == ["kind", str(NUM_PAIRS), "1.000", "0.000", "1.000", "1.000", "0.000", "1.000"]


async def test_missing_data_and_an_unserved_recipe_end_before_anything_is_asked(
    recipe: Path, data: Path, tmp_path: Path
) -> None:
    fake = server()
    with pytest.raises(TrainingError):
        await results_of(recipe, tmp_path / "nowhere", fake)
    with pytest.raises(EvaluationError, match="serves two axes"):
        await results_of(recipe, data, server(axes={}))
    assert not fake.requests


@pytest.fixture
def evaluate(
    recipe: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, Path]]:
    """Runs the command against a fake server; gives exit code, output and the report's folder."""

    def run(fake: ParetoServer, *more: str) -> tuple[int, str, Path]:
        real = httpx.AsyncClient

        def client(**options: Any) -> httpx.AsyncClient:
            return real(**{**options, "transport": fake.transport()})

        monkeypatch.setattr(httpx, "AsyncClient", client)
        out = tmp_path / "out"
        command = ["eval", "pareto", "--url", "http://test", "--recipe", str(recipe), "--data", str(data)]
        command += ["--out", str(out), "--points", "3", "--pairs", "4", "--api-key", "secret-key", *more]
        monkeypatch.setattr("sys.argv", ["steer-server", *command])
        result = CliRunner().invoke(app, command)
        return result.exit_code, result.output + repr(result.exception), out

    return run


def test_the_command_says_what_it_costs_writes_both_reports_and_prints_the_headline_last(
    evaluate: Callable[..., tuple[int, str, Path]],
) -> None:
    code, output, out = evaluate(server())
    assert code == 0, output
    report = json.loads((out / "report.json").read_text())
    headline = json.loads(output.removesuffix("None").strip().splitlines()[-1])
    assert headline == report["headline"]
    assert output.index(f"pareto: {report['cost']['requests']} requests") < output.index("Fronts")
    for line in verdict_lines(report):
        assert line in output
    assert "small.yaml, held-out pairs" in output
    assert {"hardware", "versions", "commit", "command", "server"} <= report.keys()
    assert [axis["id"] for axis in report["server"]["values"]] == list(AXES)
    assert len(front_table(report).rows) == 3 * (3 + 2 + 1)
    assert len(response_table(report).rows) == 6
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 6 and "rewarded soup" in page
    for text in (page, json.dumps(report)):
        assert "secret-key" not in text
    assert not [tag for tag in ("<script", "<link", 'src="', 'href="http', "url(http") if tag in page]


def test_a_soup_can_be_named_and_too_many_failures_end_with_an_error_after_the_report(
    evaluate: Callable[..., tuple[int, str, Path]],
) -> None:
    def refuse(path: str, body: dict[str, Any]) -> httpx.Response | None:
        is_bad = path == "/v1/completions" and "other" in body["steering"].get("cultures", {})
        text = "".join(map(chr, body["prompt"][0])) if is_bad else ""
        return httpx.Response(400, text="too odd") if "Hello, 1" in text else None

    fake = server(cultures={"other": [], "small-bold": []}, refuse=refuse)
    code, output, out = evaluate(fake, "--soup", "kind=other", "--pairs", "0")
    assert code != 0 and "requests failed" in output
    report = json.loads((out / "report.json").read_text())
    assert report["data"]["axes"]["bold"]["dropped"] > 0
    assert [("soup" in result["methods"]) for result in report["pairs"]] == [False, True, False]
    page = (out / "report.html").read_text()
    assert "requests failed" in page and "were left out" in page
