"""The pairs of a run as token ids: those to train on and those held out."""

import logging
from dataclasses import dataclass

from tqdm import tqdm

from arm_models.data import EncodedPair, PairEncoder, PreferencePair, read_pairs, split_by_prompt
from arm_models.training.config import TrainConfig

log = logging.getLogger("genarm.train")


@dataclass(frozen=True)
class PairSets:
    """Token ids to train on and to hold out, and where they come from.

    train, held_out: a list for every objective. format: of the files. digests: hashes of them by what they are for.
    """

    train: list[list[EncodedPair]]
    held_out: list[list[EncodedPair]]
    format: str
    digests: dict[str, str]

    @property
    def count(self) -> int:
        """Pairs to train on."""
        return sum(len(pairs) for pairs in self.train)

    @property
    def held_out_count(self) -> int:
        """Pairs held out."""
        return sum(len(pairs) for pairs in self.held_out)


def read_pair_sets(config: TrainConfig, encoder: PairEncoder, progress: bool) -> PairSets:
    """Read and tokenise the files that ``config`` names, with a bar; raises UserError for what is wrong in them."""
    data = read_pairs(config.dataset_name, config.dataset_format)
    train, held_out = data.pairs, tuple[PreferencePair, ...]()
    digests = {"data": data.digest}
    if config.eval_dataset:
        other = read_pairs(config.eval_dataset, config.dataset_format)
        held_out = other.pairs
    elif config.eval_fraction:
        train, held_out = split_by_prompt(train, config.eval_fraction, config.seed)
    if data.ties and progress:
        log.info("%d pairs of %s left out: neither answer is preferred", data.ties, config.dataset_name)
    with tqdm(
        total=len(train) + len(held_out), desc="tokenise", disable=None if progress else True, leave=False
    ) as bar:
        encoded: tuple[list[EncodedPair], list[EncodedPair]] = ([], [])
        for target, source in zip(encoded, (train, held_out), strict=True):
            for pair in source:
                target.append(encoder.encode(pair))
                bar.update()
    return PairSets([encoded[0]], [encoded[1]], data.format, digests)
