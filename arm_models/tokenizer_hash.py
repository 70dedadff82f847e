"""Two hashes that say whether two models speak the same tokens and render conversations the same way."""

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256, as hex, of everything that decides which ids a text becomes: vocabulary, merges, normaliser, added tokens.

    A fast tokenizer is hashed through its serialised pipeline, without its padding and truncation settings, which a
    call can change, and without options that are off, so that a release of the tokenizers library that adds one
    changes no hash. The chat template is not part of it. Same ids for every text, same hash on every machine.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    for volatile in ("padding", "truncation"):
        state.pop(volatile, None)
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return _sha256({"vocabulary": vocabulary, "pipeline": _switched_on(state)})


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """sha256, as hex, of the chat template; None for a tokenizer without one."""
    template = tokenizer.chat_template
    return None if template is None else _sha256(template)


def _switched_on(state: Any) -> Any:
    """``state`` without the options that are null or false."""
    if isinstance(state, dict):
        return {
            name: _switched_on(value)
            for name, value in state.items()
            if value is not None and value is not False
        }
    return [_switched_on(item) for item in state] if isinstance(state, list) else state


def _sha256(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
