"""``genarm sweep``: answers under many settings, in one batch, kept in a folder that a stopped run goes on with."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arm_models.errors import UserError

if TYPE_CHECKING:
    from arm_models.evaluation.answers import Answering
    from arm_models.evaluation.prompts import PromptSet
    from arm_models.evaluation.settings import Setting
    from server.config import Deployment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm sweep``."""
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where answers are kept; a stopped sweep goes on there",
    )
    settings = parser.add_argument_group("settings")
    settings.add_argument("--settings", type=Path, metavar="FILE", help="a YAML list of settings and grids")
    settings.add_argument("--method", default="genarm", help="of the grid, default genarm")
    settings.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="a preference's values, start:end:step or a,b,c; guidance.NAME for a parameter; several are combined",
    )
    settings.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="a parameter that all of the grid have",
    )
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="JSONL of messages or prompt; default: the demo's held-out",
    )
    prompts.add_argument(
        "--count", type=int, metavar="N", help="so many prompts; default 240 of the demo, all of a file"
    )
    prompts.add_argument("--samples", type=int, default=1, metavar="N", help="answers to each, default 1")
    prompts.add_argument(
        "--seed", type=int, default=0, help="of the demo's prompts and of every draw, default 0"
    )
    prompts.add_argument("--temperature", type=float, default=1.0, help="default 1; 0 is greedy")
    prompts.add_argument("--max-tokens", type=int, default=160, metavar="N", help="of an answer, default 160")
    answering = parser.add_argument_group("who answers")
    answering.add_argument("--config", type=Path, metavar="FILE", help="a deployment; default: the demo")
    answering.add_argument("--url", help="an OpenAI-compatible server instead, …/v1")
    answering.add_argument("--model", default="default", help="its model id, with --url")
    answering.add_argument("--key-variable", metavar="NAME", help="environment variable with its API key")
    answering.add_argument(
        "--parallel", type=int, default=16, metavar="N", help="requests at a time, with --url; default 16"
    )


def run(args: argparse.Namespace) -> int:
    """Answer what is missing; 0 when all is there. Raises ``UserError`` on misuse."""
    _check(args)
    from tqdm import tqdm

    from arm_models.evaluation.answers import SweepPlan
    from arm_models.evaluation.folder import SweepFolder
    from arm_models.evaluation.report.table import cost_text

    settings, prompts = _settings(args), _prompts(args)
    deployment = None if args.url else _deployment(args)
    plan = SweepPlan(
        settings,
        prompts,
        _answered_by(args, deployment),
        args.samples,
        args.seed,
        args.temperature,
        args.max_tokens,
    )
    folder = SweepFolder.begin(args.output, plan)
    missing = len(folder.missing(plan))
    if missing:
        with (
            _answering(args, deployment, settings) as answering,
            tqdm(
                total=missing + len(folder.answers),
                initial=len(folder.answers),
                desc="answering",
                unit="answer",
                disable=not sys.stderr.isatty(),
            ) as bar,
        ):
            folder.fill(plan, answering, bar.update)
    print(
        f"{args.output}: {len(settings)} settings, {len(prompts.messages)} prompts, {len(folder.answers)} answers"
    )
    if cost := cost_text(folder.costs):
        print(cost)
    print(f"`genarm evaluate --sweep {args.output}` scores them")
    return 0


def _check(args: argparse.Namespace) -> None:
    for name in ("count", "samples", "max_tokens", "parallel"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if not 0 <= args.temperature < float("inf"):
        raise UserError(f"--temperature must not be negative, not {args.temperature:g}")
    if args.settings is not None and (args.grid or args.parameter or args.method != "genarm"):
        raise UserError("--settings says all of them: leave out --method, --grid and --parameter")
    if args.url and args.config is not None:
        raise UserError("--config and --url are two ways to answer: give one")


def _settings(args: argparse.Namespace) -> Sequence[Setting]:
    from arm_models.evaluation.settings import check_settings, read_grid, read_settings

    if args.settings is not None:
        return read_settings(args.settings)
    settings = read_grid(args.method, args.grid, dict(_parameter(text) for text in args.parameter))
    check_settings(settings)
    return settings


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--parameter {text}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _prompts(args: argparse.Namespace) -> PromptSet:
    from arm_models.evaluation.prompts import demo_prompts, file_prompts

    if args.prompts is None:
        return demo_prompts(args.count or 240, args.seed)
    return file_prompts(args.prompts, args.count)


def _deployment(args: argparse.Namespace) -> Deployment:
    from server.config import read_config_file, read_deployment
    from server.serve_command import demo_config

    declared = demo_config() if args.config is None else read_config_file(args.config)
    # A sweep has no one who waits for a first token: the batch may be as large as it pays.
    engine = {"max_sequences": 96, **(declared.get("engine") or {})}
    return read_deployment({**declared, "engine": engine}, str(args.config or "demo"))


def _answered_by(args: argparse.Namespace, deployment: Deployment | None) -> dict[str, Any]:
    if deployment is None:
        return {"url": args.url, "model": args.model}
    return {"deployment": deployment.model_dump(mode="json", exclude={"http", "engine", "threads"})}


@contextmanager
def _answering(
    args: argparse.Namespace, deployment: Deployment | None, settings: Sequence[Setting]
) -> Iterator[Answering]:
    if deployment is None:
        from server.evaluation.chat_service import ChatService
        from server.evaluation.url_answers import UrlAnswers

        with ChatService(args.url, args.model, read_key(args.key_variable)) as service:
            yield UrlAnswers(service, args.temperature, args.max_tokens, args.parallel, not args.no_report)
        return
    from server.evaluation.engine_answers import EngineAnswers

    def progress(line: str) -> None:
        print(line, file=sys.stderr)

    options = {"temperature": args.temperature, "max_tokens": args.max_tokens}
    with EngineAnswers.load(deployment, progress, settings, **options) as answering:
        yield answering


def read_key(variable: str | None) -> str | None:
    """An API key from the environment; raises ``UserError`` where the variable named is empty."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UserError(f"the environment variable {variable} is not set")
    return key
