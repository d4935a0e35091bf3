from __future__ import annotations

from pathlib import Path

import pytest

from steer_server.evaluation.html import Table, figure_svg, heat_map
from steer_server.evaluation.report import provenance


@pytest.mark.parametrize("given", [["--api-key", "secret"], ["--api-key=secret"]])
def test_a_key_on_the_command_line_is_masked(monkeypatch: pytest.MonkeyPatch, given: list[str]) -> None:
    monkeypatch.setattr("sys.argv", ["steer-server", "eval", *given, "--limit", "3"])
    assert provenance()["command"] in (
        "steer-server eval --api-key *** --limit 3",
        "steer-server eval --api-key=*** --limit 3",
    )


def test_text_in_a_table_cannot_become_markup() -> None:
    assert "<b>" not in Table(["<b>"], [["<b>"]], "<b>").for_html()


def test_a_plot_is_inline_and_takes_the_pages_text_colour() -> None:
    svg = figure_svg(heat_map(["a", "b"], ["c"], [[0.1], [float("nan")]]))
    assert svg.startswith("<svg") and "currentColor" in svg
    assert "0.100" in svg and "nan" not in svg


def test_of_files_elsewhere_only_the_name_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = tmp_path / "own.csv"
    data.write_text("")
    given = [
        "--data",
        str(data),
        f"--prompts={data}",
        "--out",
        str(tmp_path / "new"),
        "--url",
        "http://h:1/v1",
    ]
    monkeypatch.setattr("sys.argv", ["steer-server", *given])
    assert provenance()["command"] == (
        "steer-server --data own.csv --prompts=own.csv --out new --url http://h:1/v1"
    )
