"""Every client of OpenAI's API against a real server: ``make test-clients``.

A client lives in a folder of ``conformance``: what it needs (``*.txt`` for pip, ``package.json`` for npm) and
``check.py`` or ``check.mjs``, a program of promises that its own test runner runs. Clients disagree about what they
need, so each gets an environment of its own under ``.venvs``, made once and again when what it needs changes.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1500)]

PROGRAMS = Path(__file__).parent / "conformance"
ENVIRONMENTS = Path(__file__).parents[2] / ".venvs"

MODEL = "tiny"
PRESETS = {"kind": {"harmless": 2.0}, "mixed": {"helpful": 0.7, "harmless": -0.4}}
SENTENCE = "water the plants before the sun is high and wipe the oven with a damp cloth and some soap now"
# Tools and calls as Qwen's and Hermes' templates write them.
TEMPLATE = (
    "{% if tools %}<|system|>You may call:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Deployment:
    """What is served: the file that says so, and the checkpoints by member."""

    config: Path
    checkpoints: Mapping[str, Path]


@pytest.fixture(scope="module")
def deployment(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, key: str
) -> Deployment:
    """A base and two rewards; the model's own id is the unguided base, its presets are guided."""
    changes: dict[str, Any] = {"template": TEMPLATE, "max_position_embeddings": 1024}
    checkpoints = {
        "base": make_checkpoint("llama", "conformance-base", seed=1, **changes),
        "helpful": make_checkpoint("llama", "conformance-helpful", seed=2, **changes),
        "harmless": make_checkpoint("qwen3", "conformance-harmless", seed=3, **changes),
    }
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "keys").write_text(f"{key}\n")
    declared = {
        "model": MODEL,
        "base": {"model": str(checkpoints["base"])},
        "rewards": [
            {"name": name, "model": str(checkpoints[name]), "default": 0.0}
            for name in ("helpful", "harmless")
        ],
        "presets": PRESETS,
        "threads": 1,
        "engine": {"deterministic": True},
        "http": {"api_key_file": str(folder / "keys")},
    }
    (folder / "deployment.yaml").write_text(json.dumps(declared))  # JSON is YAML
    return Deployment(folder / "deployment.yaml", checkpoints)


@pytest.fixture(scope="module")
def server(deployment: Deployment, launch: Callable[..., Any]) -> str:
    """The server's address."""
    return str(launch(deployment.config).wait_until_ready().url)


@pytest.fixture(scope="module")
def small_server(deployment: Deployment, launch: Callable[..., Any]) -> str:
    """The address of one that answers a single request at a time and lets nobody wait."""
    flags = ("--max-sequences", "1", "--max-queue", "0")
    return str(launch(deployment.config, *flags).wait_until_ready().url)


@pytest.fixture
def surroundings(server: str, key: str, deployment: Deployment, tmp_path: Path) -> dict[str, str]:
    """The environment variables of a client's program: where the server is, and nothing of the user's."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "BASE_URL": server,
        "API_KEY": key,
        "MODEL": MODEL,
        "TOKENIZER": str(deployment.checkpoints["base"]),
    }


@pytest.mark.parametrize("release", ["2", "3"])
def test_openai_python(release: str, small_server: str, surroundings: dict[str, str]) -> None:
    run_pytest("openai-python", surroundings | {"SMALL_URL": small_server}, requirements=f"{release}.txt")


def test_openai_node(small_server: str, surroundings: dict[str, str]) -> None:
    folder = node_environment("openai-node")
    shutil.copy(PROGRAMS / "openai-node" / "check.mjs", folder)  # node looks for packages beside the program
    for package in ("openai-6", "openai-7"):
        own = surroundings | {"SMALL_URL": small_server, "PACKAGE": package}
        run(["node", "--test", "--test-reporter=spec", "check.mjs"], folder, own)


@pytest.mark.parametrize(
    "client", ["langchain", "llama-index", "litellm", "guidellm", "hypothesis", "schemathesis"]
)
def test_a_client_of_python(client: str, surroundings: dict[str, str]) -> None:
    run_pytest(client, surroundings)


def test_lm_eval(surroundings: dict[str, str], deployment: Deployment, tmp_path: Path) -> None:
    """Besides what its program checks: the log-likelihoods are those of plain forwards, computed here."""
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps(plain_loglikelihoods(deployment.checkpoints)))
    run_pytest("lm-eval", surroundings | {"EXPECTED": str(expected)})


def run_pytest(client: str, surroundings: Mapping[str, str], requirements: str = "requirements.txt") -> None:
    """Runs a client's ``check.py`` with the pytest of its environment."""
    python = python_environment(PROGRAMS / client / requirements)
    run(
        [str(python), "-m", "pytest", "-c", str(PROGRAMS / "pytest.ini"), "."],
        PROGRAMS / client,
        surroundings,
    )


def run(command: Sequence[str], folder: Path, surroundings: Mapping[str, str]) -> None:
    """Runs a program to its end; what it prints is shown as it comes."""
    print(f"\n$ {' '.join(command)}   # in {folder}", flush=True)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=dict(surroundings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
        finally:
            process.kill()  # without effect on one that has ended
    if process.returncode != 0:
        pytest.fail(f"{folder.name} keeps not every promise: see what was printed", pytrace=False)


def python_environment(requirements: Path) -> Path:
    """The interpreter of the environment with these requirements."""
    name = requirements.parent.name
    folder = ENVIRONMENTS / (name if requirements.stem == "requirements" else f"{name}-{requirements.stem}")
    python = folder / "bin" / "python"
    needs = (sys.version, requirements.read_text(), (PROGRAMS / "common.txt").read_text())
    make_once(
        folder,
        "\n".join(needs),
        [sys.executable, "-m", "venv", "--without-pip", "."],
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "-r", str(requirements)],
    )
    return python


def node_environment(client: str) -> Path:
    """The folder with the packages that a client's ``package.json`` names."""
    if shutil.which("npm") is None:
        pytest.fail("node and npm are needed for this client")
    package = PROGRAMS / client / "package.json"
    make_once(
        ENVIRONMENTS / client,
        package.read_text(),
        ["cp", str(package), "."],
        ["npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"],
    )
    return ENVIRONMENTS / client


def make_once(folder: Path, needs: str, *commands: Sequence[str]) -> None:
    """Fills ``folder`` by ``commands``, run in it, unless that was done for the same ``needs``."""
    stamp, made_for = folder / ".made", hashlib.sha256(needs.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == made_for:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    stamp.write_text(made_for)


def plain_loglikelihoods(checkpoints: Mapping[str, Path]) -> dict[str, Any]:
    """Documents for lm-eval, and what it should find.

    ``documents``: [{context, choices}]; under each model id, per document and choice, [log-likelihood, greedy]:
    from whole forwards with transformers alone, log softmax(base logits + Σ w · reward logits).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints["base"])
    models = {name: AutoModelForCausalLM.from_pretrained(folder) for name, folder in checkpoints.items()}
    mixes: dict[str, Mapping[str, float]] = {MODEL: {}}
    mixes |= {f"{MODEL}:{name}": weights for name, weights in PRESETS.items()}

    def read(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    @torch.inference_mode()
    def logprobs(mix: Mapping[str, float], ids: list[int]) -> torch.Tensor:
        """[tokens, vocabulary]: row i is about token i + 1."""
        row = torch.tensor([ids])
        logits = models["base"](row).logits[0]
        for name, weight in mix.items():
            logits = logits + weight * models[name](row).logits[0]
        return torch.log_softmax(logits.float(), -1)

    def greedy(mix: Mapping[str, float], context: str) -> str | None:
        """The most likely next token as text, if it would be read back as that token."""
        token = int(logprobs(mix, read(context))[-1].argmax())
        text = str(tokenizer.decode([token]))
        return text if text.isprintable() and read(context + text) == [*read(context), token] else None

    def found(mix: Mapping[str, float], context: str, choice: str) -> tuple[float, bool]:
        ids, begin = read(context + choice), len(read(context))
        rows, chosen = logprobs(mix, ids)[begin - 1 : -1], torch.tensor(ids[begin:])
        total = rows.gather(1, chosen[:, None]).sum().item()
        return total, bool((rows.argmax(-1) == chosen).all())

    def last_words(mix: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        """Documents after which the answer would end at once: no text, but the token counts."""
        for *words, last in itertools.permutations(SENTENCE.split(), 3):
            context = " ".join(words)
            if logprobs(mix, read(f"{context} {last}"))[-1].argmax() == tokenizer.eos_token_id:
                yield {"context": context, "choices": [f" {last}", " soap?"]}

    documents = []
    for count in range(1, 21):
        context = " ".join((SENTENCE.split() * 2)[count : 2 * count + 1])
        likely = {text for mix in mixes.values() if (text := greedy(mix, context))}
        documents.append({"context": context, "choices": [" the garden", " soap?", *sorted(likely)]})
    for mix in mixes.values():
        documents.append(next(last_words(mix)))
    answers = {
        model: [[found(mix, each["context"], choice) for choice in each["choices"]] for each in documents]
        for model, mix in mixes.items()
    }
    for model, per_document in answers.items():
        flags = [flag for choices in per_document for _, flag in choices]
        assert {True, False} == set(flags), f"{model}: the documents should show both flags"
    return {"documents": documents, "expected": answers}
