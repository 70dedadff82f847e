"""lm-eval: its log-likelihoods are those of plain forwards (EXPECTED, computed elsewhere), and it generates.

It sends no field but OpenAI's, so that weights are chosen by the model's name.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

API_KEY, BASE_URL, MODEL = os.environ["API_KEY"], os.environ["BASE_URL"], os.environ["MODEL"]
EXPECTED = json.loads(Path(os.environ["EXPECTED"]).read_text())
DOCUMENTS = EXPECTED["documents"]
GENERATION = {"max_gen_toks": 12, "until": ["e "], "temperature": 0}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tasks of one's own: choices to score and contexts to continue."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = "".join(json.dumps(document) + "\n" for document in DOCUMENTS)
    (folder / "documents.jsonl").write_text(lines)
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "documents.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{context}}",
        "target_delimiter": "",
    }
    score = {
        "task": "score",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
    }
    write = {
        "task": "write",
        "output_type": "generate_until",
        "doc_to_target": "",
        "generation_kwargs": GENERATION,
    }
    for task in (score, write):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(common | task))
    return folder


def evaluate(kind: str, task: str, tasks: Path, route: str, **settings: Any) -> list[dict[str, Any]]:
    """Runs lm-eval; the samples in the order of the documents."""
    os.environ["OPENAI_API_KEY"] = API_KEY
    results = simple_evaluate(
        model=kind,
        model_args={"base_url": f"{BASE_URL}{route}", "auth_token": API_KEY, "max_retries": 1, **settings},
        tasks=[task],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        predict_only=task == "write",
        apply_chat_template=kind == "local-chat-completions",
        log_samples=True,
    )
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("model", sorted(EXPECTED["expected"]))
def test_loglikelihoods_are_those_of_plain_forwards(tasks: Path, model: str, batch: int) -> None:
    samples = evaluate("local-completions", "score", tasks, "/v1/completions", model=model, batch_size=batch)
    assert len(samples) == len(DOCUMENTS)
    for sample, document, expected in zip(samples, DOCUMENTS, EXPECTED["expected"][model], strict=True):
        assert sample["doc"]["context"] == document["context"]
        found = [choice[0] for choice in sample["resps"]]
        assert len(found) == len(expected)
        for (logprob, greedy), (plain, plain_greedy) in zip(found, expected, strict=True):
            assert float(logprob) == pytest.approx(plain, abs=1e-4)
            assert bool(greedy) == plain_greedy


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:kind"])
def test_it_writes_what_the_server_answers_to_a_prompt(tasks: Path, model: str) -> None:
    samples = evaluate("local-completions", "write", tasks, "/v1/completions", model=model, num_concurrent=4)
    for sample, document in zip(samples, DOCUMENTS, strict=True):
        answer = ask("/v1/completions", model=model, prompt=document["context"])
        assert sample["resps"][0][0] == answer["choices"][0]["text"]


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:kind"])
def test_it_writes_what_the_server_answers_in_a_chat(tasks: Path, model: str) -> None:
    samples = evaluate("local-chat-completions", "write", tasks, "/v1/chat/completions", model=model)
    for sample, document in zip(samples, DOCUMENTS, strict=True):
        chat = [{"role": "user", "content": document["context"]}]
        answer = ask("/v1/chat/completions", model=model, messages=chat)
        assert sample["resps"][0][0] == answer["choices"][0]["message"]["content"]


def ask(route: str, **fields: Any) -> dict[str, Any]:
    body = {"max_tokens": GENERATION["max_gen_toks"], "temperature": 0, "stop": GENERATION["until"], **fields}
    answer = requests.post(
        f"{BASE_URL}{route}", json=body, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=60
    )
    answer.raise_for_status()
    return answer.json()
