"""Writes the PrometheusRule from the rules in deploy/prometheus: `python -m deploy.kubernetes.rules`."""

from __future__ import annotations

from pathlib import Path

import yaml

RULES = Path(__file__).parents[1] / "prometheus" / "rules"
FILE = Path(__file__).parent / "base" / "rules.yaml"
HEADER = "# Generated from deploy/prometheus/rules: make rules\n"


class _Dumper(yaml.SafeDumper):
    """Expressions of several lines stay so; a text that is used twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def document() -> str:
    """What belongs in FILE."""
    groups = [
        group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "steer-server", "labels": {"app.kubernetes.io/name": "steer-server"}},
        "spec": {"groups": groups},
    }
    return HEADER + yaml.dump(rule, Dumper=_Dumper, sort_keys=False, width=110)


if __name__ == "__main__":
    FILE.write_text(document())
