"""The few kinds of panels, and the frame of a dashboard, with grafana-foundation-sdk."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import BigValueGraphMode, BigValueTextMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
Panel = timeseries.Panel | stat.Panel | heatmap.Panel
Section = tuple[str, Sequence[Panel]]
"""A row's title and its panels."""

GRAPH_SIZE, NUMBER_SIZE = (8, 8), (4, 4)
"""Width of 24, and height."""


def graph(title: str, description: str, unit: str, **queries: str) -> Panel:
    """Lines over time. Args: queries: legend -> PromQL; a legend `by_LABEL` shows that label's value."""
    width, height = GRAPH_SIZE
    legend = common.VizLegendOptions().placement(LegendPlacement.BOTTOM).show_legend(True)
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(DATASOURCE)
    panel = panel.span(width).height(height).legend(legend).fill_opacity(8).axis_soft_min(0)
    for name, expr in queries.items():
        panel = panel.with_target(_query(expr).legend_format(_legend(name)))
    return panel


def number(title: str, description: str, unit: str, expr: str, *, legend: str = "") -> Panel:
    """The last value, large. Args: legend: shown in place of the value."""
    width, height = NUMBER_SIZE
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(DATASOURCE)
    panel = (
        panel.span(width)
        .height(height)
        .graph_mode(BigValueGraphMode.NONE if legend else BigValueGraphMode.AREA)
    )
    if legend:
        panel = panel.text_mode(BigValueTextMode.NAME)
    return panel.with_target(_query(expr).legend_format(legend))


def spread(title: str, description: str, unit: str, buckets: str) -> Panel:
    """A histogram over time, as colours. Args: buckets: PromQL with `le`."""
    width, height = GRAPH_SIZE
    panel = heatmap.Panel().title(title).description(description).unit(unit).datasource(DATASOURCE)
    query = _query(buckets).format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    return panel.span(width).height(height).with_target(query)


def board(uid: str, title: str, description: str, sections: Sequence[Section]) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["steer-server"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("job", "label_values(steer_build_info, job)"))
        .with_variable(_variable("instance", 'label_values(steer_build_info{job=~"$job"}, instance)'))
    )
    for name, panels in sections:
        built = built.with_row(dashboard.Row(name))
        for panel in panels:
            built = built.with_panel(panel)
    return built


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _query(expr: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).datasource(DATASOURCE).range()


def _legend(name: str) -> str:
    labels = name.removeprefix("by_").split("_and_")
    return " ".join(f"{{{{{label}}}}}" for label in labels) if name.startswith("by_") else name
