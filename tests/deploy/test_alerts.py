"""Alerts and dashboard: each alert says what to do about it, and panels are drawn where they say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def alerts(root: Path) -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((root / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (root / "deploy/grafana/dashboards/genarm.json").read_text(encoding="utf-8")
    )
    return found


def test_every_alert_is_explained_where_it_says(root: Path, alerts: list[dict[str, Any]]) -> None:
    headings = re.findall(
        r"^#+ (.+)$", (root / "docs/operations.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {alert["alert"] for alert in alerts} == {one for one in headings if one.startswith("Genarm")}
    for alert in alerts:
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}


def test_every_alert_says_whom_to_wake(alerts: list[dict[str, Any]]) -> None:
    assert {alert["labels"]["severity"] for alert in alerts} == {"page", "ticket"}


def test_panels_do_not_overlap_and_have_ids_of_their_own(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_panel_is_explained_and_every_query_keeps_to_the_chosen_servers(
    dashboard: dict[str, Any],
) -> None:
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "model", "instance"}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            for selector in re.findall(r"\{([^}]*)\}", target["expr"]):
                assert 'instance=~"$instance"' in selector, target["expr"]
                assert 'job="genarm"' in selector or 'model_name=~"$model"' in selector, target["expr"]


def test_the_dashboard_shows_what_an_operator_asks_for(dashboard: dict[str, Any]) -> None:
    shown = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", []))
    for metric in (
        "generation_tokens_total",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
        "request_queue_time_seconds_bucket",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "num_preemptions_total",
        "preference_weight_bucket",
        "kl_base_guided_bucket",
        "guided_overhead_ratio",
        "request_failure_total",
    ):
        assert f"genarm_{metric}" in shown
