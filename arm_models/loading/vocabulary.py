"""Tokenizers and what their ids mean: the mix adds logits id by id, so ids have to agree everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from arm_models.errors import CheckpointError
from arm_models.loading.checkpoint import Checkpoint, one_line
from arm_models.tokenizer_hash import tokenizer_hash

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def load_tokenizer(
    checkpoint: Checkpoint, backbone: Checkpoint | None, template: str | None
) -> PreTrainedTokenizerBase:
    """The member's own tokenizer (an adapter without one has its backbone's), its chat template on it.

    template: a Jinja file that replaces the chat template. A model without a template loads: completions
    need none. Raises CheckpointError for a missing, slow or broken tokenizer and a template that does not
    parse.
    """
    own = next((f for f in TOKENIZER_FILES if (checkpoint.folder / f).is_file()), None)
    home = backbone if own is None and backbone is not None else checkpoint
    # AutoTokenizer would rebuild some architectures' pipelines, with tokens of its own; the file is what was trained.
    reader = PreTrainedTokenizerFast if (home.folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        tokenizer = reader.from_pretrained(home.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise bare Exception on a broken tokenizer.json
        raise home.error(f"its tokenizer cannot be loaded: {one_line(error)}") from error
    if not tokenizer.is_fast:
        raise home.error("it has no fast tokenizer (tokenizer.json), which streaming needs")
    if home is not checkpoint and (checkpoint.folder / "chat_template.jinja").is_file():
        tokenizer.chat_template = read_template(checkpoint.name, checkpoint.folder / "chat_template.jinja")
    if template is not None:
        tokenizer.chat_template = read_template(checkpoint.name, Path(template))
    _check_trained_with(checkpoint, tokenizer)
    return tokenizer


def _check_trained_with(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    """A reward of our own training says in arm.json which tokenizer it was trained with."""
    trained_with = (checkpoint.read_json("arm.json") or {}).get("base_tokenizer_sha256")
    if trained_with is not None and trained_with != tokenizer_hash(tokenizer):
        raise checkpoint.error(
            "its tokenizer is not the one it was trained with (base_tokenizer_sha256 in arm.json)"
        )


def read_template(name: str, path: Path) -> str:
    """The Jinja source in ``path``; raises CheckpointError if it cannot be read or does not parse."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{name}: chat template {path} cannot be read: {one_line(error)}") from error
    try:
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(
            f"{name}: chat template {path} line {error.lineno}: {one_line(error.message)}"
        ) from error
    return source


def tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Token id → token string, added tokens included."""
    return {index: token for token, index in tokenizer.get_vocab().items()}


def shared_vocabulary(
    base: PreTrainedTokenizerBase, base_head: int, rewards: Sequence[tuple[str, PreTrainedTokenizerBase, int]]
) -> int:
    """How many ids can be mixed: the base's real vocabulary, without the padding of its head.

    base_head, and the int in ``rewards`` (name, tokenizer, head): rows of the output head. Ids from the
    answer on (padding, tokens that only a reward has added) are never drawn. A reward without the base's
    padding token costs that token alone, which nobody generates. Raises CheckpointError with both sizes and
    the first id that differs.
    """
    tokens = tokens_by_id(base)
    size = min(max(tokens) + 1, base_head)
    _check_head("base", tokens, base_head, base)
    for _, tokenizer, head in rewards:
        size = _without_padding_token(base, tokens, size, tokens_by_id(tokenizer), head)
    check_vocabulary(base, size, rewards)
    return size


def check_vocabulary(
    base: PreTrainedTokenizerBase, size: int, others: Sequence[tuple[str, PreTrainedTokenizerBase, int]]
) -> None:
    """Whether ids below ``size`` mean to ``others`` (name, tokenizer, rows of the head) what they mean to the base.

    Raises CheckpointError as :func:`shared_vocabulary` does.
    """
    tokens = tokens_by_id(base)
    for name, tokenizer, head in others:
        _check_same(name, tokens, size, tokens_by_id(tokenizer), head)


def _check_head(name: str, tokens: dict[int, str], head: int, tokenizer: PreTrainedTokenizerBase) -> None:
    special = set(tokenizer.get_added_vocab())
    beyond = sorted(index for index in tokens if index >= head and tokens[index] not in special)
    if beyond:
        raise CheckpointError(
            f"{name}: its tokenizer has {max(tokens) + 1} tokens but its head only {head} rows; "
            f"the first token without one is {beyond[0]} {tokens[beyond[0]]!r}"
        )


def _without_padding_token(
    base: PreTrainedTokenizerBase, tokens: dict[int, str], size: int, others: dict[int, str], head: int
) -> int:
    last = size - 1
    lacking = last >= head or last not in others
    only_padding = tokens.get(last) == base.pad_token and base.pad_token != base.eos_token
    return last if lacking and only_padding else size


def _check_same(name: str, tokens: dict[int, str], size: int, others: dict[int, str], head: int) -> None:
    for index in range(size):
        if index not in tokens:
            continue  # an id without a token in the base is never drawn with a meaning
        if index >= head or others.get(index) != tokens[index]:
            other: Any = repr(others[index]) if index in others and index < head else "nothing"
            raise CheckpointError(
                f"{name}: its vocabulary is not the base's: {min(max(others) + 1, head)} tokens against "
                f"{size}; the first that differs is {index}: {other}, the base has {tokens[index]!r}"
            )
