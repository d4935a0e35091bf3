"""A report as one HTML page that opens anywhere: tables, inline SVG plots, nothing fetched from elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from steer_server.evaluation.report import provenance, write_report

INK = "#123456"
"""Stands for the page's text colour while a plot is drawn, so that it is legible on light and on dark."""
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
"""Distinct also without colour vision (Paul Tol's bright scheme)."""

WIDTH_OF_FILES = 150
"""Columns of a table that is not printed to a terminal."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #8884; text-align: right; }
th:first-child, td:first-child { text-align: left; }
caption, .source { color: #888; text-align: left; font-size: .85rem; }
.source { overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Table:
    """Cells as text; for the console and for the page."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def for_console(self) -> RichTable:
        table = RichTable(title=self.caption or None, title_justify="left")
        for i, name in enumerate(self.header):
            table.add_column(name, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def for_html(self) -> str:
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Section:
    """A heading, and under it text, tables and plots in this order. `figures` are matplotlib's."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Any] = ()


def new_figure(width: float = 8.0, height: float = 4.0) -> Any:
    """An empty matplotlib Figure with one pair of axes, drawn in the page's text colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(INK)
    return figure


def add_legend(figure: Any, columns: int) -> None:
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, labelcolor=INK)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> Any:
    """A Figure of a matrix with its numbers; NaN stays empty. Low is dark."""
    import numpy as np

    figure = new_figure(max(4.0, 1.5 + 1.1 * len(columns)), max(2.0, 1.0 + 0.32 * len(rows)))
    (axes,) = figure.axes
    matrix = np.asarray(values, dtype=float)
    mesh = axes.pcolormesh(matrix, cmap="viridis")
    middle = (np.nanmin(matrix) + np.nanmax(matrix)) / 2
    for (i, j), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            ink = "white" if value <= middle else "black"
            axes.text(j + 0.5, i + 0.5, f"{value:.3f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks([j + 0.5 for j in range(len(columns))], columns, rotation=25, ha="right")
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    axes.invert_yaxis()
    figure.colorbar(mesh, ax=axes).ax.tick_params(colors=INK)
    return figure


def figure_svg(figure: Any) -> str:
    """The figure as an inline `<svg>` element."""
    import matplotlib

    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def write_page(path: Path, title: str, source: Mapping[str, Any], sections: Sequence[Section]) -> None:
    """Writes one page. `source` is what `report.provenance` says of the run."""
    parts = [f"<h1>{escape(title)}</h1>", _source_line(source)]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text.split("\n\n") if paragraph]
        parts += [table.for_html() for table in section.tables]
        parts += [f"<figure>{figure_svg(figure)}</figure>" for figure in section.figures]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def write_all(
    out: Path, title: str, results: dict[str, Any], sections: Sequence[Section], tables: Sequence[Table]
) -> None:
    """Writes `report.json` and `report.html` in `out`, and prints the tables."""
    write_report(out / "report.json", results)
    write_page(out / "report.html", title, provenance() | {"server": results["server"]}, sections)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    for table in tables:
        console.print(table.for_console())


def _source_line(source: Mapping[str, Any]) -> str:
    pairs = [
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in source.items()
    ]
    return f'<p class="source">{escape("; ".join(pairs))}</p>'
