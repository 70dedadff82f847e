"""What deploy/ asks Prometheus for is what a server tells: dashboard, alerts and the metric that replicas follow."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = (
    "grafana/dashboards/genarm.json",
    "prometheus/alerts.yml",
    "kubernetes/base/horizontalpodautoscaler.yaml",
    "kubernetes/monitoring/adapter-values.yaml",
)
SCRAPED = {"instance", "job", "le", "namespace", "pod", "alertname", "alertstate"}
"""Labels that do not come from the server alone."""


def used(pattern: str) -> set[str]:
    return {
        name for file in FILES for name in re.findall(pattern, (DEPLOY / file).read_text(encoding="utf-8"))
    }


@pytest.fixture(scope="module")
def told(real: Any) -> dict[str, set[str]]:
    """Labels by the name of each sample, after one good answer and one bad request."""
    request = {"max_tokens": 4, "ignore_eos": True, "preferences": {"helpful": 1.0}}
    assert real.chat(**request, guidance={"report": "summary"}).status_code == 200
    assert real.chat(max_tokens="many").status_code == 400
    with real.client() as client:
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    samples: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


def test_every_metric_in_use_is_told(told: dict[str, set[str]]) -> None:
    names = used(r"\bgenarm_[a-z_0-9]+\b")
    assert len(names) > 20
    assert names - set(told) == set()


def test_every_label_in_use_is_told(told: dict[str, set[str]]) -> None:
    """Those in selectors, those that are summed by, and those that legends name."""
    selected = used(r'([a-z_]+)\\?"?(?:=~|!=|=)\\?"')
    grouped = {name for names in used(r"(?:by|on) \(([a-z_, ]+)\)") for name in names.split(", ")}
    labelled = {
        name
        for panel in json.loads((DEPLOY / FILES[0]).read_text(encoding="utf-8"))["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    }
    assert "finished_reason" in grouped & labelled
    assert {"status", "model_name"} <= selected
    assert (selected | grouped | labelled) - SCRAPED <= set().union(*told.values())
