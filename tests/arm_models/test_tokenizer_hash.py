"""Two models share a hash exactly when they read text, or conversations, the same way."""

from collections.abc import Callable
from pathlib import Path

from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from arm_models.tokenizer_hash import template_hash, tokenizer_hash

Make = Callable[..., PreTrainedTokenizerFast]


def test_the_hash_survives_saving_loading_and_use(make_tokenizer: Make, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=4)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_hash(tokenizer) == before == tokenizer_hash(AutoTokenizer.from_pretrained(tmp_path))


def test_it_changes_with_vocabulary_added_tokens_and_splitting(make_tokenizer: Make) -> None:
    larger, added, split = make_tokenizer(size=301), make_tokenizer(), make_tokenizer()
    added.add_tokens(["<new>"])
    split.backend_tokenizer.pre_tokenizer = Whitespace()
    assert len({tokenizer_hash(t) for t in (make_tokenizer(), larger, added, split)}) == 4


def test_the_template_has_its_own_hash(make_tokenizer: Make) -> None:
    one, other, none = make_tokenizer(), make_tokenizer(chat_template="{{ messages }}"), make_tokenizer(None)
    assert tokenizer_hash(one) == tokenizer_hash(other)
    assert template_hash(one) != template_hash(other)
    assert template_hash(none) is None
