"""From replicas and tokens to money. There are no prices here: whoever asks says what a replica costs."""


def replica_hours_per_million(replicas: int, throughput: float) -> float:
    """Hours of one replica that a million output tokens take, ``throughput`` being the tokens per second of all replicas.

    Raises:
        ValueError: ``throughput`` is not above 0.
    """
    if not throughput > 0:
        raise ValueError(f"throughput must be above 0, not {throughput}")
    return replicas * 1e6 / throughput / 3600


def cost_per_million(price_per_hour: float, replicas: int, throughput: float) -> float:
    """What a million output tokens cost where a replica costs so much an hour, idle or not.

    Raises:
        ValueError: as above, or for a negative price.
    """
    if price_per_hour < 0:
        raise ValueError("a price must not be negative")
    return price_per_hour * replica_hours_per_million(replicas, throughput)
