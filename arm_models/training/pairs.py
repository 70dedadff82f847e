"""The pairs of a run as token ids: those to train on and those held out."""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from arm_models.data import EncodedPair, PairEncoder, PreferencePair, read_pairs, split_by_prompt
from arm_models.training.config import TrainConfig

log = logging.getLogger("genarm.train")


@dataclass(frozen=True)
class PairSets:
    """Token ids to train on and to hold out, and where they come from.

    train, held_out: by objective, "" where there is but one. format: of the files. digests: hashes by what they are of.
    """

    train: dict[str, list[EncodedPair]]
    held_out: dict[str, list[EncodedPair]]
    format: str
    digests: dict[str, str]

    @property
    def count(self) -> int:
        """Pairs to train on."""
        return sum(map(len, self.train.values()))

    @property
    def held_out_count(self) -> int:
        """Pairs held out."""
        return sum(map(len, self.held_out.values()))

    @property
    def digest(self) -> str:
        """sha256 of the file to train on, or of the files' hashes where there are several."""
        own = [digest for name, digest in self.digests.items() if name.startswith("data")]
        return own[0] if len(own) == 1 else hashlib.sha256("".join(own).encode()).hexdigest()


def read_pair_sets(config: TrainConfig, encoder: PairEncoder, progress: bool) -> PairSets:
    """Read and tokenise the files that ``config`` names, with a bar; raises UserError for what is wrong in them."""
    texts: dict[str, Split] = {}
    digests, forms = dict[str, str](), list[str]()
    for name, file in config.data_files.items():
        data = read_pairs(file, config.dataset_format)
        if data.ties and progress:
            log.info("%d pairs of %s left out: neither answer is preferred", data.ties, file)
        texts[name] = _split(config, name, data.pairs)
        digests[f"data of {name}" if name else "data"] = data.digest
        forms.append(data.format)
    train, held_out = dict[str, list[EncodedPair]](), dict[str, list[EncodedPair]]()
    total = sum(len(part) for split in texts.values() for part in split)
    with tqdm(total=total, desc="tokenise", disable=None if progress else True, leave=False) as bar:
        for target, place in ((train, 0), (held_out, 1)):
            for name, split in texts.items():
                target[name] = [_encoded(encoder, pair, bar) for pair in split[place]]
    return PairSets(train, held_out, ", ".join(dict.fromkeys(forms)), digests)


Split = tuple[tuple[PreferencePair, ...], tuple[PreferencePair, ...]]


def _split(config: TrainConfig, name: str, pairs: tuple[PreferencePair, ...]) -> Split:
    """(to train on, held out), of one objective."""
    if config.eval_files:
        return pairs, read_pairs(config.eval_files[name], config.dataset_format).pairs
    return split_by_prompt(pairs, config.eval_fraction, config.seed) if config.eval_fraction else (pairs, ())


def _encoded(encoder: PairEncoder, pair: PreferencePair, bar: Any) -> EncodedPair:
    bar.update()
    return encoder.encode(pair)
