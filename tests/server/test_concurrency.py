"""32 requests at once, each with its own weights, seed and length, give what each gives alone."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


def requests() -> list[dict[str, Any]]:
    rng = random.Random(4)
    made = []
    for seed in range(32):
        words = " ".join(
            rng.choice(("kettle", "garden", "oven", "soap", "window")) for _ in range(rng.randint(1, 9))
        )
        made.append(
            {
                "messages": [{"role": "user", "content": words}],
                "preferences": {
                    "helpful": rng.choice([0.0, rng.uniform(-1, 3)]),
                    "harmless": rng.uniform(0, 2),
                },
                "guidance": {"beta": rng.choice([0.5, 1.0, 2.0]), "normalize": rng.random() < 0.2},
                "seed": seed,
                "max_tokens": rng.randint(1, 40),
                "temperature": rng.choice([0.0, 0.7, 1.0]),
                "top_p": rng.choice([1.0, 0.9]),
                "ignore_eos": True,
            }
        )
    made[0]["guidance"] = {"beta": 1.0, "normalize": True}
    return made


@pytest.mark.slow
def test_32_different_requests_at_once_equal_each_alone(real: Any, until: Any) -> None:
    asked = [fields for fields in requests() if _allowed(fields)]
    assert len(asked) >= 30

    def ask(fields: dict[str, Any], delay: float = 0.0) -> Any:
        time.sleep(delay)
        response = real.chat(**fields)
        assert response.status_code == 200, response.text
        return {key: response.json()[key] for key in ("choices", "usage", "guidance")}

    alone = [ask(fields) for fields in asked]
    rng = random.Random(5)
    delays = [rng.uniform(0, 1) for _ in asked]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, asked, delays))
    assert together == alone
    assert len({str(one["choices"]) for one in alone}) > 25
    until(lambda: real.serving.dispatcher.admitted == 0)


def _allowed(fields: dict[str, Any]) -> bool:
    total = 1 + sum(fields["preferences"].values()) / fields["guidance"]["beta"]
    return bool(total > 0.1 or not fields["guidance"]["normalize"])
