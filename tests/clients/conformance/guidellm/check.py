"""guidellm benchmarks the server, guided and by a preset, on every route it knows, without one failed request."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODEL = os.environ["MODEL"]
OUTPUT_TOKENS = 16
GUIDED = {"preferences": {"helpful": 0.5, "harmless": 1.5}, "guidance": {"beta": 2}}


def benchmark(folder: Path, requests: int, **backend: Any) -> dict[str, Any]:
    """Runs guidellm with two streams until so many requests are answered; the one benchmark of its report."""
    spec = {
        "backend": {
            "kind": "openai_http",
            "target": os.environ["BASE_URL"],
            "api_key": os.environ["API_KEY"],
            **backend,
        },
        "profile": {"kind": "concurrent", "streams": [2]},
        "constraints": [{"kind": "max_requests", "count": requests}],
        "tokenizer": {"kind": "huggingface_auto", "model": os.environ["TOKENIZER"]},
        "data": [{"kind": "synthetic_text", "prompt_tokens": 24, "output_tokens": OUTPUT_TOKENS}],
        "outputs": [{"kind": "json", "path": str(folder / "report.json")}],
    }
    scenario = folder / "scenario.json"
    scenario.write_text(json.dumps({"metadata": {"name": "promises"}, "spec": spec, "benchmarks": [{}]}))
    done = subprocess.run(
        [sys.executable, "-m", "guidellm", "run", "--disable-console", "--config", str(scenario)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads((folder / "report.json").read_text())["benchmarks"]
    return dict(report)


@pytest.mark.parametrize(
    ("route", "stream", "model", "fields", "count"),
    [
        ("/v1/chat/completions", True, MODEL, GUIDED, 40),
        ("/v1/chat/completions", False, f"{MODEL}:kind", {}, 8),
        ("/v1/completions", True, f"{MODEL}:kind", {}, 8),
        ("/v1/responses", True, f"{MODEL}:kind", {}, 8),
    ],
)
def test_a_benchmark_runs_without_an_error(
    tmp_path: Path, route: str, stream: bool, model: str, fields: dict[str, Any], count: int
) -> None:
    report = benchmark(
        tmp_path, count, model=model, request_format=route, stream=stream, extras={"body": fields}
    )
    requests = report["requests"]
    assert [request["info"]["error"] for request in requests["errored"]] == []
    assert len(requests["successful"]) == count
    if route != "/v1/responses":  # it has no way to ask for an answer of exactly so many tokens
        assert {request["output_tokens"] for request in requests["successful"]} == {OUTPUT_TOKENS}
