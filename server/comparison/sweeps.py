"""Which deployments answer which settings: a sweep per training seed and question, each a run of `genarm sweep`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from arm_models.evaluation.answers import Cost
from arm_models.evaluation.folder import SweepFolder
from arm_models.evaluation.settings import Setting, described
from arm_models.whole_file import write_whole
from server.comparison.models import OBJECTIVES, SOUP, Models, retrained
from server.comparison.plan import Plan
from server.comparison.stages import Stage

HELPFUL, HARMLESS = OBJECTIVES
COSTS = ("together", "single")
"""How the cost of a method is taken: many prompts side by side, or one after the other."""

BATCH = 96
TOKENS = 36
"""Of an answer on average, for estimates."""


@dataclass(frozen=True)
class Sweep:
    """One run of `genarm sweep`: which models, which settings, which prompts.

    ``after``: the stages that make the models. ``rate``: answer tokens per second on one quiet core, an estimate.
    """

    name: str
    deployment: Mapping[str, Any]
    settings: Sequence[Setting]
    prompts: int
    prompt_seed: int
    after: tuple[str, ...]
    rate: float = 1500.0


class Sweeps:
    """All sweeps of a comparison."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.plan: Plan = models.plan
        self.all: list[Sweep] = [*self._curves(), *self._frontiers(), *self._searches()]

    def path(self, name: str) -> Path:
        """Where a sweep's answers lie."""
        return self.models.folder / "sweeps" / name

    def folder(self, name: str) -> SweepFolder:
        """A sweep that has been answered."""
        return SweepFolder.open(self.path(name))

    def stages(self) -> list[Stage]:
        """A stage for each sweep, and those that take times."""
        return [*(self._stage(sweep) for sweep in self.all), *(self._costing(kind) for kind in COSTS)]

    def costs(self, kind: str) -> dict[str, Cost]:
        """By label of ``cost_settings``, what each took by itself; ``kind`` as in ``COSTS``."""
        found = json.loads(self._costs_file(kind).read_text(encoding="utf-8"))
        return {label: Cost(**found[label]) for label in self.cost_settings()}

    @cached_property
    def curve_settings(self) -> list[Setting]:
        """What every seed's models for one objective answer: the base, and every method at its weights."""
        grids = self.plan.grids
        settings = [Setting("base", "genarm", {})]
        for name in (f"{HELPFUL}-arm", f"{HELPFUL}-small-arm"):
            settings += [_setting("genarm", {name: weight}) for weight in grids["genarm"]]
        settings += [
            _setting("dera", {}, {"policy": f"{HELPFUL}-dpo", "lambda": weight}) for weight in grids["dera"]
        ]
        settings += [_setting("args", {f"{HELPFUL}-small-bt": weight}) for weight in grids["args"]]
        settings += [_setting("pargs", {f"{HELPFUL}-small-prefix": weight}) for weight in grids["pargs"]]
        return settings

    @property
    def simplex(self) -> list[float]:
        """Shares of the helpful objective along a frontier."""
        last = self.plan.simplex - 1
        return [round(number / last, 6) for number in range(self.plan.simplex)]

    def _curves(self) -> Iterator[Sweep]:
        """One objective: all methods' curves of reward against KL, for each seed; and where a weight is chosen."""
        for seed in self.plan.seeds:
            names = [
                f"{HELPFUL}-arm",
                f"{HELPFUL}-dpo",
                *(f"{HELPFUL}-small-{kind}" for kind in ("arm", "bt", "prefix")),
            ]
            after = tuple(f"train-{seed}-{name}" for name in names)
            deployment, plan = self._deployment(seed, names), self.plan
            yield Sweep(
                f"curves-{seed}", deployment, self.curve_settings, plan.prompts, plan.prompt_seed, after
            )
            yield Sweep(
                f"validation-{seed}",
                deployment,
                self.curve_settings,
                plan.validation,
                plan.validation_seed,
                after,
            )

    def _frontiers(self) -> Iterator[Sweep]:
        """Two objectives: GenARM and soups for each seed; MOD, PARM and the retrained policies for the first."""
        plan = self.plan
        for seed in plan.seeds:
            yield self._two_objectives(seed, "genarm", "arm", f"frontier-{seed}")
            yield self._soups(seed)
        first = plan.seeds[0]
        yield self._two_objectives(first, "mod", "dpo", "mod")
        deployment = {**self._deployment(first, []), "conditioned": self._parm(first)}
        settings = [
            Setting(f"parm {share:g}", "parm", {HELPFUL: share, HARMLESS: round(1 - share, 6)})
            for share in self.simplex
        ]
        yield Sweep("parm", deployment, settings, plan.prompts, plan.prompt_seed, (f"train-{first}-parm",))
        names = [retrained(strength) for strength in plan.dera_betas]
        settings = [_setting("dera", {}, {"policy": name, "lambda": 1.0}) for name in names]
        after = tuple(f"train-{first}-{name}" for name in names)
        yield Sweep(
            "retrained", self._deployment(first, names), settings, plan.prompts, plan.prompt_seed, after
        )
        strengths = [
            _setting("dera", {}, {"policy": f"{HELPFUL}-dpo", "lambda": strength})
            for strength in plan.dera_betas
        ]
        yield Sweep(
            "strengths",
            self._deployment(first, [f"{HELPFUL}-dpo"]),
            strengths,
            plan.prompts,
            plan.prompt_seed,
            (f"train-{first}-{HELPFUL}-dpo",),
        )

        yield self._relatives(first)

    def _relatives(self, seed: int) -> Sweep:
        """Members of the family that no claim is about: TR-DPO, and a small policy against its start, by proxy-tuning."""
        pair, policy = f"{HELPFUL}-small-pair", f"{HELPFUL}-tr-dpo"
        settings = [_setting("dera", {}, {"policy": policy, "lambda": 1.0})]
        settings += [_setting("proxy", {pair: weight}) for weight in self.plan.grids["proxy"]]
        after = tuple(f"train-{seed}-{name}" for name in (policy, f"{HELPFUL}-small-dpo"))
        deployment = self._deployment(seed, [policy, pair])
        return Sweep(
            "relatives", deployment, settings, self.plan.prompts, self.plan.prompt_seed, ("start", *after)
        )

    def _two_objectives(self, seed: int, method: str, kind: str, name: str) -> Sweep:
        """A method's weights between two models of a kind, one for each objective."""
        first, second = names = [f"{objective}-{kind}" for objective in OBJECTIVES]
        settings = [
            Setting(f"{method} {share:g}", method, {first: share, second: round(1 - share, 6)})
            for share in self.simplex
        ]
        return Sweep(
            name,
            self._deployment(seed, names),
            settings,
            self.plan.prompts,
            self.plan.prompt_seed,
            tuple(f"train-{seed}-{name}" for name in names),
        )

    def _soups(self, seed: int) -> Sweep:
        """The ends of a soup's frontier are the two policies themselves."""
        between = [f"{SOUP}-{share:g}" for share in self.models.soup_points()]
        names = [f"{HARMLESS}-dpo", *between, f"{HELPFUL}-dpo"]
        settings = [
            Setting(f"{SOUP} {share:g}", "dera", None, {"policy": name, "lambda": 1.0})
            for share, name in zip(self.simplex, names, strict=True)
        ]
        after = [f"soup-{seed}-{share:g}" for share in self.models.soup_points()]
        after += [f"train-{seed}-{objective}-dpo" for objective in OBJECTIVES]
        return Sweep(
            f"{SOUP}-{seed}",
            self._deployment(seed, names),
            settings,
            self.plan.prompts,
            self.plan.prompt_seed,
            tuple(after),
            rate=2000.0,
        )

    def _searches(self) -> Iterator[Sweep]:
        """Best-of-N, DARWIN and Transfer-Q with the first seed's scorer."""
        plan, seed, scorer = self.plan, self.plan.seeds[0], f"{HELPFUL}-small-bt"
        names = [scorer, f"{HELPFUL}-dpo"]
        deployment, after = self._deployment(seed, names), tuple(f"train-{seed}-{name}" for name in names)
        best = [
            _setting("best_of_n", None, {"scorer": scorer, "n_candidates": count})
            for count in plan.candidates
        ]
        rate = 3200.0 / sum(plan.candidates) * len(plan.candidates)
        yield Sweep("best-of-n", deployment, best, plan.prompts, plan.prompt_seed, after, rate)
        darwin = [_setting("darwin", None, {"scorer": scorer, **plan.darwin})]
        beams = plan.darwin["iterations"] * plan.darwin["mutations"]
        yield Sweep("darwin", deployment, darwin, plan.prompts, plan.prompt_seed, after, 2600.0 / (beams + 8))
        transfer = [self._transfer(weight, scorer) for weight in plan.transfer_weights]
        cost = plan.transfer["k"] * (plan.transfer["rollout_tokens"] + 2)
        yield Sweep(
            "transfer-q", deployment, transfer, plan.transfer_prompts, plan.prompt_seed, after, 5000.0 / cost
        )

    def _transfer(self, weight: float, scorer: str) -> Setting:
        policy = f"{HELPFUL}-dpo"
        return _setting(
            "transfer_q", None, {"scorer": scorer, "policy": policy, "w": weight, **self.plan.transfer}
        )

    def _costing(self, kind: str) -> Stage:
        """Every method by itself, nothing beside it."""
        seed, plan = self.plan.seeds[0], self.plan
        prompts, batch = (plan.cost_prompts, BATCH) if kind == "together" else (plan.cost_single, 1)
        names = [f"{HELPFUL}-arm", f"{HARMLESS}-arm", f"{HELPFUL}-dpo", f"{HARMLESS}-dpo"]
        names += [f"{HELPFUL}-small-{kind}" for kind in ("arm", "bt", "prefix")]
        trained = [*names, "parm", f"{HELPFUL}-small-dpo"]
        names.append(f"{HELPFUL}-small-pair")
        deployment = {**self._deployment(seed, names, negative=True), "conditioned": self._parm(seed)}
        settings = [
            Setting(label, one.method, one.preferences, one.parameters)
            for label, one in self.cost_settings().items()
        ]
        files, text = self._configs(f"cost-{kind}", deployment, settings, batch)
        numbers = (prompts, plan.validation_seed, plan.max_tokens)
        slower = 1.0 if kind == "together" else 4.0
        rates = [_COST_RATES.get(one.method, 500.0) for one in settings]
        return Stage(
            f"cost-{kind}",
            (
                "-m",
                "server.comparison.costing",
                *map(str, files),
                *map(str, numbers),
                str(self._costs_file(kind)),
            ),
            after=tuple(f"train-{seed}-{name}" for name in trained),
            seconds=20 + sum(slower * (prompts + 1) * TOKENS / rate for rate in rates),
            alone=True,
            inputs=text,
        )

    def _costs_file(self, kind: str) -> Path:
        return self.models.folder / f"cost-{kind}.json"

    def _parm(self, seed: int) -> dict[str, Any]:
        return {"name": "parm", "model": str(self.models.model(seed, "parm")), "objectives": list(OBJECTIVES)}

    def cost_settings(self) -> dict[str, Setting]:
        """What the table of times and forwards has a line for."""
        plan, scorer = self.plan, f"{HELPFUL}-small-bt"
        one = {"policy": f"{HELPFUL}-dpo", "lambda": 1.0}
        return {
            "base": Setting("base", "genarm", {}),
            "genarm-small": _setting("genarm", {f"{HELPFUL}-small-arm": 1.0}),
            "genarm": _setting("genarm", {f"{HELPFUL}-arm": 1.0}),
            "genarm-two": _setting("genarm", {f"{HELPFUL}-arm": 0.5, f"{HARMLESS}-arm": 0.5}),
            "dpo": _setting("dera", {}, one),
            "dera": _setting("dera", {}, {**one, "lambda": 2.0}),
            "mod": _setting("mod", {f"{HELPFUL}-dpo": 0.5, f"{HARMLESS}-dpo": 0.5}),
            "proxy-small": _setting("proxy", {f"{HELPFUL}-small-pair": 1.0}),
            "cfg": _setting("cfg", {}, {"gamma": 1.0, "negative_prompt": "Be careless."}),
            "parm": _setting("parm", {HELPFUL: 0.5, HARMLESS: 0.5}),
            "args": _setting("args", {scorer: 1.0}),
            "pargs": _setting("pargs", {f"{HELPFUL}-small-prefix": 1.0}),
            "best-of-n": _setting("best_of_n", None, {"scorer": scorer, "n_candidates": plan.candidates[-2]}),
            "darwin": _setting("darwin", None, {"scorer": scorer, **plan.darwin}),
            "transfer-q": self._transfer(1.0, scorer),
        }

    def _deployment(self, seed: int, names: Sequence[str], *, negative: bool = False) -> dict[str, Any]:
        """A configuration of the base and these models, each in the role that its name says; a pair is a small policy and the
        model it was trained from."""
        roles: dict[str, list[dict[str, Any]]] = {"rewards": [], "policies": [], "scorers": []}
        for name in names:
            entry: dict[str, Any] = {"name": name, "model": str(self.models.model(seed, name))}
            if name.endswith("-pair"):
                policy = self.models.model(seed, name.removesuffix("pair") + "dpo")
                entry |= {"model": str(policy), "reference": str(self.models.start)}
                roles["rewards"].append({**entry, "default": 0.0})
            elif name.endswith("arm"):
                roles["rewards"].append({**entry, "default": 0.0})
            elif name.endswith(("bt", "prefix")):
                trained_on = "responses" if name.endswith("bt") else "prefixes"
                roles["scorers"].append({**entry, "trained_on": trained_on})
            else:
                roles["policies"].append(entry)
        base = {"model": str(self.models.base), **({"negative_prompt": True} if negative else {})}
        return {"model": "comparison", "base": base, **roles}

    def _configs(
        self, name: str, deployment: Mapping[str, Any], settings: Sequence[Setting], batch: int
    ) -> tuple[tuple[Path, Path], str]:
        """Write a deployment and settings as files; these, and their content."""
        folder = self.models.folder / "configs"
        config, listed = folder / f"sweep-{name}.yaml", folder / f"settings-{name}.yaml"
        texts = {
            config: json.dumps({**deployment, "engine": {"max_sequences": batch}}, indent=1),
            listed: json.dumps([setting.as_json() for setting in settings], indent=1),
        }
        for file, text in texts.items():
            write_whole(file, text)
        return (config, listed), "".join(texts.values())

    def _stage(self, sweep: Sweep) -> Stage:
        (config, listed), text = self._configs(sweep.name, sweep.deployment, sweep.settings, BATCH)
        options = {
            "--output": self.path(sweep.name),
            "--config": config,
            "--settings": listed,
            "--count": sweep.prompts,
            "--seed": sweep.prompt_seed,
            "--max-tokens": self.plan.max_tokens,
        }
        words = [word for name, value in options.items() for word in (name, str(value))]
        answers = sweep.prompts * len(sweep.settings)
        return Stage(
            f"sweep-{sweep.name}",
            ("-m", "server.cli", "sweep", *words),
            sweep.after,
            seconds=12 + answers * TOKENS / sweep.rate,
            inputs=text,
            output=self.path(sweep.name),
        )


_COST_RATES = {"best_of_n": 60.0, "darwin": 30.0, "transfer_q": 15.0}
"""Answer tokens per second of what is slower than a row of the batch."""


def _setting(
    method: str, preferences: Mapping[str, float] | None, parameters: Mapping[str, Any] | None = None
) -> Setting:
    return Setting(described(method, preferences, parameters or {}), method, preferences, parameters or {})
