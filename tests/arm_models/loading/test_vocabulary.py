"""Logits are added id by id: an id must be one token in the whole family, or the models are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from arm_models.errors import CheckpointError
from arm_models.loading import Family, ModelSource, load_family
from arm_models.loading.vocabulary import shared_vocabulary, tokens_by_id
from arm_models.tokenizer_hash import tokenizer_hash

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def load(base: Path, helpful: Path) -> Family:
    return load_family(ModelSource("base", str(base)), [ModelSource("helpful", str(helpful))])


def with_tokens(
    tokenizer: PreTrainedTokenizerFast, *tokens: str, pad: str | None = None
) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokens])
    if pad is not None:
        tokenizer.pad_token = pad
    return tokenizer


def test_a_padded_head_is_cut(make_checkpoint: Callable[..., Path]) -> None:
    """As Qwen's: 151,936 rows for 151,669 tokens, and not the same number in every size of model."""
    family = load(
        make_checkpoint("qwen2", "base", seed=1, vocab_size=320),
        make_checkpoint("qwen2", "arm", seed=2, vocab_size=304),
    )
    for member in (family.base, *family.rewards):
        assert member.vocab_size == 300
        assert (
            member.model(
                input_ids=family.base.tokenizer("hello", return_tensors="pt").input_ids
            ).logits.shape[-1]
            == 300
        )
    assert (family.base.input_size, family.rewards[0].input_size) == (320, 304)


def test_special_tokens_that_only_a_reward_added_are_cut(
    make_checkpoint: Callable[..., Path], make_tokenizer: MakeTokenizer
) -> None:
    """32,000 in the base and 32,001 in the reward, whose last is a padding token of its own."""
    arm = make_checkpoint(
        "llama", "arm", seed=2, tokenizer=with_tokens(make_tokenizer(), "[PAD]", pad="[PAD]")
    )
    family = load(make_checkpoint("llama", "base", seed=1), arm)
    assert family.rewards[0].vocab_size == 300 and family.rewards[0].input_size == 301
    assert family.rewards[0].tokenizer.pad_token_id == 300


def test_a_padding_token_that_only_the_base_added_is_given_up(
    make_checkpoint: Callable[..., Path], make_tokenizer: MakeTokenizer
) -> None:
    base = make_checkpoint(
        "llama", "base", seed=1, tokenizer=with_tokens(make_tokenizer(), "[PAD]", pad="[PAD]")
    )
    family = load(base, make_checkpoint("llama", "arm", seed=2))
    assert {member.vocab_size for member in (family.base, *family.rewards)} == {300}
    assert load(base, base).base.vocab_size == 301  # and kept where nobody lacks it


def test_any_other_token_that_a_reward_lacks_is_a_mismatch(
    make_checkpoint: Callable[..., Path], make_tokenizer: MakeTokenizer
) -> None:
    base = make_checkpoint("llama", "base", seed=1, tokenizer=with_tokens(make_tokenizer(), "<|think|>"))
    with pytest.raises(CheckpointError) as refusal:
        load(base, make_checkpoint("llama", "arm", seed=2))
    assert str(refusal.value) == (
        "helpful: its vocabulary is not the base's: 300 tokens against 301; the first that differs is 300: nothing, "
        "the base has '<|think|>'"
    )


def test_a_base_whose_end_is_also_its_padding_keeps_it(
    make_checkpoint: Callable[..., Path], make_tokenizer: MakeTokenizer
) -> None:
    tokenizer = with_tokens(make_tokenizer(), "<|stop|>", pad="<|stop|>")
    tokenizer.eos_token = "<|stop|>"
    with pytest.raises(CheckpointError, match="300 tokens against 301"):
        load(
            make_checkpoint("llama", "base", seed=1, tokenizer=tokenizer),
            make_checkpoint("llama", "arm", seed=2),
        )


def test_another_tokenizer_is_refused_with_both_sizes_and_the_first_token(
    make_checkpoint: Callable[..., Path], make_tokenizer: MakeTokenizer
) -> None:
    base, other = make_tokenizer(), make_tokenizer(size=290)
    arm = make_checkpoint("llama", "arm", seed=2, tokenizer=other)
    with pytest.raises(CheckpointError) as refusal:
        load(make_checkpoint("llama", "base", seed=1), arm)
    first = tokens_by_id(base)[290]
    assert f"290 tokens against 300; the first that differs is 290: nothing, the base has {first!r}" in str(
        refusal.value
    )


def test_the_first_token_that_differs_is_named_with_both_strings(make_tokenizer: MakeTokenizer) -> None:
    base, other = make_tokenizer(), make_tokenizer()
    names = tokens_by_id(base)
    swapped = {**names, 270: names[271], 271: names[270]}

    class Swapped:
        pad_token = eos_token = None

        def get_vocab(self) -> dict[str, int]:
            return {token: index for index, token in swapped.items()}

        def get_added_vocab(self) -> dict[str, int]:
            return other.get_added_vocab()

    expected = f"first that differs is 270: {names[271]!r}, the base has {names[270]!r}"
    with pytest.raises(CheckpointError) as refusal:
        shared_vocabulary(base, 300, [("fine", other, 300), ("helpful", Swapped(), 300)])  # type: ignore[list-item]
    assert str(refusal.value).startswith("helpful: ") and expected in str(refusal.value)


def test_a_reward_whose_head_is_too_small(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(
        CheckpointError, match="299 tokens against 300; the first that differs is 299: nothing"
    ):
        shared_vocabulary(make_tokenizer(), 300, [("helpful", make_tokenizer(), 299)])


def test_a_base_whose_head_is_smaller_than_its_tokenizer(make_checkpoint: Callable[..., Path]) -> None:
    base = make_checkpoint("llama", "base", seed=1, vocab_size=280)
    with pytest.raises(
        CheckpointError, match="base: its tokenizer has 300 tokens but its head only 280 rows"
    ):
        load_family(ModelSource("base", str(base)), [])


def test_added_tokens_without_a_row_in_the_head_are_never_drawn(make_tokenizer: MakeTokenizer) -> None:
    """A padding token is often added to a tokenizer alone, and the model never resized."""
    base = with_tokens(make_tokenizer(), "[PAD]", pad="[PAD]")
    assert shared_vocabulary(base, 300, [("helpful", make_tokenizer(), 300)]) == 300


def test_every_member_has_its_own_template(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = make_checkpoint("llama", "base", seed=1, template="BASE {{ messages }}")
    arm = make_checkpoint("llama", "arm", seed=2, template="ARM {{ messages }}")
    given = tmp_path / "given.jinja"
    given.write_text("GIVEN {{ messages }}", encoding="utf-8")
    sources = [ModelSource("own", str(arm)), ModelSource("given", str(arm), chat_template=str(given))]
    family = load_family(ModelSource("base", str(base)), sources)
    templates = [member.tokenizer.chat_template for member in (family.base, *family.rewards)]
    assert templates == ["BASE {{ messages }}", "ARM {{ messages }}", "GIVEN {{ messages }}"]


def test_a_model_without_a_template_loads(
    make_checkpoint: Callable[..., Path], make_tokenizer: MakeTokenizer
) -> None:
    bare = make_checkpoint("llama", "bare", seed=1, tokenizer=make_tokenizer(None))
    assert load_family(ModelSource("base", str(bare)), []).base.tokenizer.chat_template is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"{% for message in messages %}", "line 1"),
        (b"ok\n{{ messages", "line 2"),
    ],
)
def test_a_template_file_that_is_no_template(
    content: bytes | None, reason: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "chat.jinja"
    if content is not None:
        path.write_bytes(content)
    base = make_checkpoint("llama", "base", seed=1)
    with pytest.raises(CheckpointError) as refusal:
        load_family(ModelSource("base", str(base), chat_template=str(path)), [])
    message = str(refusal.value)
    assert message.startswith(f"base: chat template {path}") and reason in message and "\n" not in message


def test_a_folder_without_a_tokenizer(make_checkpoint: Callable[..., Path]) -> None:
    base = make_checkpoint("llama", "base", seed=1)
    for file in base.glob("*token*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"^base: .*tokenizer"):
        load_family(ModelSource("base", str(base)), [])


def test_a_tokenizer_that_is_json_but_no_tokenizer(make_checkpoint: Callable[..., Path]) -> None:
    base = make_checkpoint("llama", "base", seed=1)
    (base / "tokenizer.json").write_text('{"model": {"type": "Nonsense"}}')
    with pytest.raises(CheckpointError, match=r"^base: .*its tokenizer cannot be loaded") as refusal:
        load_family(ModelSource("base", str(base)), [])
    assert "\n" not in str(refusal.value)


def test_a_tokenizers_own_code_is_never_run(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = make_checkpoint("llama", "base", seed=1)
    (base / "tokenizer.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = base / "tokenizer_config.json"
    path.write_text(
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["tokenizer.Own", "tokenizer.Own"]}}'
    )
    try:
        load_family(ModelSource("base", str(base)), [])
    except CheckpointError as refusal:
        assert "\n" not in str(refusal)
    assert not (tmp_path / "ran").exists()


def test_the_pipeline_is_the_files_own_whatever_the_architecture(
    make_checkpoint: Callable[..., Path], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """AutoTokenizer gives a qwen2 folder an `<|endoftext|>` that its file does not have."""
    text = "  Hello there, how's the garden? 12345 na\u00efve \u2615\n\n\tx<|end|> y"
    for kind in ("llama", "qwen2", "qwen3", "mistral", "gpt2"):
        member = load_family(ModelSource("base", str(make_checkpoint(kind, kind, seed=1))), []).base
        assert len(member.tokenizer) == 300
        assert member.tokenizer(text).input_ids == tiny_tokenizer(text).input_ids


def test_a_reward_is_refused_if_its_tokenizer_is_not_the_one_it_was_trained_with(
    make_checkpoint: Callable[..., Path],
    make_adapter: Callable[..., Path],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    base = make_checkpoint("llama", "base", seed=1)
    for arm in (make_checkpoint("llama", "arm", seed=2), make_adapter(base, "adapter", 3)):
        trained_with = {"base_tokenizer_sha256": tokenizer_hash(tiny_tokenizer)}
        (arm / "arm.json").write_text(json.dumps(trained_with))
        load(base, arm)
        (arm / "arm.json").write_text(json.dumps({"base_tokenizer_sha256": "0" * 64}))
        with pytest.raises(CheckpointError, match=r"helpful: .* not the one it was trained with"):
            load(base, arm)
        (arm / "arm.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"arm\.json is not readable JSON"):
            load(base, arm)
