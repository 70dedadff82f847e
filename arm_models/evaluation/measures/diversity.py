"""distinct-n (Li et al. 2016, arXiv 1510.03055): how many of the word n-grams in a set of texts are different."""

from __future__ import annotations

from collections.abc import Iterable


def distinct(texts: Iterable[str], length: int) -> float:
    """Different n-grams of ``length`` words over all n-grams, in [0, 1]; 0 where no text has that many words.

    Words are what spaces separate; n-grams do not go across texts. Raises ``ValueError`` for a length below 1.
    """
    if length < 1:
        raise ValueError(f"n-grams have at least one word, not {length}")
    grams = [
        tuple(words[start : start + length])
        for words in (text.split() for text in texts)
        for start in range(len(words) - length + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0
