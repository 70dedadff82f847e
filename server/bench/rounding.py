"""What a dtype changes in what a model says, by KL divergence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from server.bench.result import Row


@dataclass(frozen=True, slots=True)
class Rounding:
    """KL(float32 ‖ ``dtype``) in nats at every token of the same texts; ``bar``: the largest mean."""

    member: str
    dtype: str
    divergences: tuple[float, ...]
    bar: float

    @property
    def mean(self) -> float:
        """Over all tokens."""
        return sum(self.divergences) / len(self.divergences)

    @property
    def reached(self) -> bool:
        """Whether the mean is within the bar."""
        return self.mean <= self.bar

    def quantile(self, share: float) -> float:
        """The smallest divergence that ``share`` of the tokens do not exceed, interpolated."""
        return torch.tensor(self.divergences, dtype=torch.double).quantile(share).item()

    def row(self) -> Row:
        """Mean; 99th percentile and the largest."""
        return Row(
            f"rounding, {self.member}",
            self.dtype,
            "float32",
            f"{self.mean:.1e} nats",
            f"p99 {self.quantile(0.99):.1e}, max {max(self.divergences):.1e}",
            f"≤ {self.bar:g}",
        )

    def record(self) -> Mapping[str, Any]:
        """All figures; of the tokens their number only."""
        return {
            "name": f"rounding, {self.member}",
            "dtype": self.dtype,
            "unit": "KL(float32 ‖ dtype) per token in nats",
            "tokens": len(self.divergences),
            "mean": self.mean,
            "p99": self.quantile(0.99),
            "largest": max(self.divergences),
            "bar": self.bar,
        }
