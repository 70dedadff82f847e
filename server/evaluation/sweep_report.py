"""``genarm evaluate --sweep``: score a sweep's answers, and write what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arm_models.errors import UserError
from arm_models.evaluation.cache import ScoreCache, key_of
from arm_models.evaluation.equal_kl import at_equal_kl
from arm_models.evaluation.folder import SweepFolder
from arm_models.evaluation.prompts import PromptSet, file_prompts, from_source
from arm_models.evaluation.report import data
from arm_models.evaluation.report.alpaca import alpaca
from arm_models.evaluation.report.figures import interval, number
from arm_models.evaluation.report.page import Section, Table, page
from arm_models.evaluation.report.picture import check_pictures, frontier_picture, kl_picture
from arm_models.evaluation.report.table import columns, cost_text, frontier_columns, table
from arm_models.evaluation.scores.oracle import ORACLES, all_oracles
from arm_models.evaluation.summary import Frontier, Row, by_method, frontier
from arm_models.whole_file import write_whole

if TYPE_CHECKING:
    from arm_models.evaluation.answers import Answer

_NO_KL = 1e-6
"""Nats per token: what is closer than that to the base is the base."""

Answers = Mapping[str, Sequence[Sequence["Answer"]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that go with ``--sweep``."""
    group = parser.add_argument_group("a sweep's answers")
    group.add_argument("--sweep", type=Path, metavar="FOLDER", help="score what `genarm sweep` left there")
    group.add_argument(
        "--prompt-file", type=Path, metavar="FILE", help="the sweep's prompts, where they are not the demo's"
    )
    group.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="a scalar-head reward model; may be repeated",
    )
    group.add_argument("--judge-url", metavar="URL", help="an OpenAI-compatible server that compares answers")
    group.add_argument("--judge-model", metavar="ID", help="its model id")
    group.add_argument("--judge-key-variable", metavar="NAME", help="environment variable with its API key")
    group.add_argument(
        "--judge-against",
        metavar="SETTING",
        help="what answers are compared with; default: the first setting",
    )
    group.add_argument("--judge-criterion", default="", metavar="TEXT", help='e.g. "is more helpful"')
    group.add_argument("--judge-tokens", type=int, default=16, metavar="N", help="of a verdict, default 16")
    group.add_argument(
        "--objectives",
        metavar="A,B",
        help="2 or 3 scores whose frontier is measured; default helpful,harmless on the demo",
    )
    group.add_argument(
        "--reference", metavar="X,Y", help="the hypervolume's reference point; default 0 for each objective"
    )
    group.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="a page with tables and pictures (.html; needs matplotlib)",
    )
    group.add_argument("--alpaca", type=Path, metavar="FILE", help="the answers in AlpacaEval's form (.json)")


def run(args: argparse.Namespace) -> int:
    """Print the table and write what was asked for. Raises ``UserError`` on misuse."""
    _check(args)
    folder = SweepFolder.open(args.sweep)
    prompts = _prompts(args, folder)
    answers = {setting.name: folder.of(setting.name) for setting in folder.settings}
    scores = _scores(args, prompts, answers, args.sweep)
    verdicts = _verdicts(args, prompts, answers, args.sweep)
    rows = [
        Row(setting, answers[setting.name], scores[setting.name], verdicts.get(setting.name, ()))
        for setting in folder.settings
    ]
    objectives, reference = _objectives(args, rows)
    frontiers = [
        frontier(method, own, objectives, reference) for method, own in by_method(rows).items() if objectives
    ]
    print(table(rows))
    for one in frontiers:
        print(
            f"\n{one.method}: hypervolume of {', '.join(objectives)} above {reference}: {one.volume.mean:.3f}",
            end="",
        )
    print(f"\n\n{cost_text(folder.costs)}")
    _write(args, folder, rows, frontiers, prompts)
    return 0


def _check(args: argparse.Namespace) -> None:
    if bool(args.judge_url) != bool(args.judge_model):
        raise UserError("--judge-url and --judge-model go together")
    for name, suffixes in (("report", (".html",)), ("alpaca", (".json",)), ("output", (".json", ".csv"))):
        path = getattr(args, name)
        if path is None:
            continue
        if path.suffix not in suffixes:
            raise UserError(f"--{name} {path}: the name must end in {' or '.join(suffixes)}")
        if not path.absolute().parent.is_dir():
            raise UserError(f"--{name} {path}: no such folder {path.parent}")
    if args.report is not None:
        check_pictures()


def _prompts(args: argparse.Namespace, folder: SweepFolder) -> PromptSet:
    made = from_source(folder.plan["prompts"])
    if made is not None:
        return made
    if args.prompt_file is None:
        raise UserError(f"{folder.path}: its prompts came from a file: name it with --prompt-file")
    read = file_prompts(args.prompt_file, folder.prompts)
    if read.source["sha256"] != folder.plan["prompts"]["sha256"]:
        raise UserError(f"--prompt-file {args.prompt_file}: not the prompts of this sweep")
    return read


def _scores(
    args: argparse.Namespace, prompts: PromptSet, answers: Answers, folder: Path
) -> dict[str, dict[str, list[float]]]:
    """By setting and score, a value per prompt."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in answers}
    if prompts.conversations is not None:
        for name, rows in answers.items():
            texts = [[answer.text for answer in samples] for samples in rows]
            found[name] |= all_oracles(prompts.conversations, texts)
    for text in args.scorer:
        score, equals, model = text.partition("=")
        if not (score and equals and model):
            raise UserError(f"--scorer {text}: write NAME=MODEL")
        if score in ORACLES or any(score in scores for scores in found.values()):
            raise UserError(f"--scorer {text}: the name {score} is taken")
        for name, values in _scalar(score, model, prompts, answers, folder).items():
            found[name][score] = values
    return found


def _scalar(
    score: str, model: str, prompts: PromptSet, answers: Answers, folder: Path
) -> dict[str, list[float]]:
    from tqdm import tqdm

    from arm_models.evaluation.scores.scalar import ScalarScorer

    cache = ScoreCache(folder / "scalar.jsonl")
    keys = {
        (name, number, sample): key_of(model, messages, answer.text)
        for name, rows in answers.items()
        for number, (messages, samples) in enumerate(zip(prompts.messages, rows, strict=True))
        for sample, answer in enumerate(samples)
    }
    missing = {
        key: (prompts.messages[number], answers[name][number][sample].text)
        for (name, number, sample), key in keys.items()
        if key not in cache
    }
    if missing:
        scorer = ScalarScorer.load(score, model)
        with tqdm(total=len(missing), desc=score, unit="answer", disable=not sys.stderr.isatty()) as bar:
            values = scorer(list(missing.values()), bar.update)
        for key, value in zip(missing, values, strict=True):
            cache[key] = value
    return {
        name: [
            sum(float(cache[keys[name, number, sample]]) for sample in range(len(samples))) / len(samples)
            for number, samples in enumerate(rows)
        ]
        for name, rows in answers.items()
    }


def _verdicts(
    args: argparse.Namespace, prompts: PromptSet, answers: Answers, folder: Path
) -> dict[str, list[float]]:
    if not args.judge_url:
        return {}
    from tqdm import tqdm

    from server.evaluation.chat_service import ChatService
    from server.evaluation.judging import Judging
    from server.sweep_command import read_key

    against = args.judge_against or next(iter(answers))
    if against not in answers:
        raise UserError(f"--judge-against {against}: no such setting (known: {', '.join(answers)})")
    first = {name: [samples[0].text for samples in rows] for name, rows in answers.items()}
    others = {name: texts for name, texts in first.items() if name != against}
    total = len(others) * len(prompts.messages)
    with (
        ChatService(args.judge_url, args.judge_model, read_key(args.judge_key_variable)) as service,
        tqdm(total=total, desc="judging", unit="pair", disable=not sys.stderr.isatty()) as bar,
    ):
        judging = Judging(service, args.judge_model, args.judge_criterion, args.judge_tokens)
        return judging.verdicts(
            prompts.messages, first[against], others, ScoreCache(folder / "judged.jsonl"), bar.update
        )


def _objectives(args: argparse.Namespace, rows: Sequence[Row]) -> tuple[list[str], list[float]]:
    """The scores whose frontier is measured, and the reference point; none where nothing was said and it is not the demo."""
    known: list[str] = [name for name in rows[0].scores if all(name in row.intervals for row in rows)]
    names = [name for name in known if name in ("helpful", "harmless")]
    if args.objectives is not None:
        names = args.objectives.split(",")
        for name in names:
            if name not in known:
                raise UserError(f"--objectives: no score {name!r} (known: {', '.join(known)})")
    if len(names) not in (2, 3):
        if args.objectives is not None:
            raise UserError(f"--objectives: a frontier has 2 or 3, not {len(names)}")
        return [], []
    if args.reference is None:
        return names, [0.0] * len(names)
    try:
        reference = [float(value) for value in args.reference.split(",")]
    except ValueError:
        raise UserError(f"--reference {args.reference}: must be numbers, X,Y") from None
    if len(reference) != len(names):
        raise UserError(f"--reference {args.reference}: must have a number for each of {', '.join(names)}")
    return names, reference


def _write(
    args: argparse.Namespace,
    folder: SweepFolder,
    rows: Sequence[Row],
    frontiers: Sequence[Frontier],
    prompts: PromptSet,
) -> None:
    if args.output is not None:
        as_json = args.output.suffix == ".json"
        write_whole(
            args.output,
            data.as_json(rows, frontiers, folder.costs, folder.plan) if as_json else data.as_csv(rows),
        )
    if args.alpaca is not None:
        write_whole(args.alpaca, alpaca(rows, prompts.messages))
    if args.report is not None:
        write_whole(args.report, page(f"Sweep {folder.path.name}", _sections(folder, rows, frontiers)))


def _sections(folder: SweepFolder, rows: Sequence[Row], frontiers: Sequence[Frontier]) -> list[Section]:
    plan = folder.plan
    about = (
        f"{folder.prompts} prompts, {plan['samples']} answers to each, temperature {plan['temperature']:g}, "
    )
    about += f"seed {plan['seed']}; 95 % bootstrap intervals over prompts."
    sections = [Section("Settings", [about, cost_text(folder.costs)], columns(rows))]
    methods = by_method(rows)
    if frontiers:
        one = frontiers[0]
        told = f"Hypervolume of {', '.join(one.objectives)} above the reference point {one.reference}."
        pictures = {
            f"{across} against {upward}": frontier_picture(methods, across, upward)
            for across, upward in zip(one.objectives, one.objectives[1:], strict=False)
        }
        sections.append(Section("Frontiers", [told], frontier_columns(frontiers), pictures))
    scores = [name for name in rows[0].intervals if name not in ("words", "fluent")]
    if any(row.kl is not None for row in rows):
        pictures = {f"{name} against KL": kl_picture(methods, name) for name in scores}
        lines, compared = _at_equal_kl(rows, methods, scores)
        sections.append(Section("At equal distance from the base", lines, compared, pictures))
    return sections


def _at_equal_kl(
    rows: Sequence[Row], methods: Mapping[str, Sequence[Row]], scores: Sequence[str]
) -> tuple[list[str], Table | None]:
    """Each method's scores at quarters of the KL that all reach; nothing where the sweep has no setting that is the base."""
    base = next((row for row in rows if row.kl is not None and row.kl.mean < _NO_KL), None)
    if base is None:
        return [
            "The sweep has no setting that is the base alone, from which the methods' curves could begin."
        ], None
    curves = {name: [row for row in own if row is not base] for name, own in methods.items()}
    curves = {name: own for name, own in curves.items() if own}
    found = [one for one in (at_equal_kl(curves, score, base) for score in scores) if one is not None]
    if not curves or not found:
        return ["No KL is common to all methods."], None
    header = ["method", "score", *(f"at KL {number(kl, 3)}" for kl in found[0].kl)]
    cells = [
        [name, one.score, *(interval(value) for value in values)]
        for one in found
        for name, values in one.rewards.items()
    ]
    return ["On straight lines between a method's settings, at quarters of the KL that all methods reach."], (
        header,
        cells,
    )
