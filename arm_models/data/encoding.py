"""Pairs → token ids, exactly as a server would put them before the model."""

from dataclasses import dataclass

import jinja2
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from arm_models.data.pair import PreferencePair
from arm_models.errors import UserError

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Token ids of a pair, int32: the prompt as rendered for generation, each answer with its EOS."""

    prompt: Ids
    chosen: Ids
    rejected: Ids

    def __len__(self) -> int:
        """Tokens of its longer sequence."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


class PairEncoder:
    """Renders and tokenises pairs, and counts what it had to cut.

    A prompt of messages is rendered with the tokenizer's chat template and its generation prompt, without further
    special tokens; a prompt of text is tokenised with the special tokens a tokenizer adds (a BOS). The answer's ids
    are those of the text behind that prompt, then the EOS. Prompts keep their last ``max_prompt_length`` tokens;
    answers their first ones within ``max_length`` in all, and then have no EOS.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, eos_id: int, max_prompt_length: int, max_length: int
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_id = eos_id
        self.max_prompt_length = max_prompt_length
        self.max_length = max_length
        self.cut_prompts = 0
        self.cut_answers = 0

    def encode(self, pair: PreferencePair) -> EncodedPair:
        """Token ids of ``pair``; raises UserError where its prompt cannot be rendered."""
        text, special = self._prompt_text(pair)
        joint = pair.joint if special else ""
        prompt = self._ids(text, special)
        room = self.max_length - min(len(prompt), self.max_prompt_length)
        chosen, rejected = (
            self._answer(text, special, prompt, joint + a) for a in (pair.chosen, pair.rejected)
        )
        self.cut_prompts += len(prompt) > self.max_prompt_length
        self.cut_answers += (len(chosen) > room) + (len(rejected) > room)
        return EncodedPair(
            _array(prompt[-self.max_prompt_length :]), _array(chosen[:room]), _array(rejected[:room])
        )

    def notice(self) -> str | None:
        """What was cut so far, in one line; None when nothing was."""
        cut = []
        if self.cut_prompts:
            cut.append(f"{self.cut_prompts} prompts to their last {self.max_prompt_length} tokens")
        if self.cut_answers:
            cut.append(f"{self.cut_answers} answers to fit {self.max_length} tokens, without their EOS")
        return "cut " + " and ".join(cut) if cut else None

    def _prompt_text(self, pair: PreferencePair) -> tuple[str, bool]:
        """(the prompt's text, whether the tokenizer adds its special tokens to it)."""
        if pair.messages is not None and self.tokenizer.chat_template is not None:
            messages = [{"role": message.role, "content": message.content} for message in pair.messages]
            try:
                rendered = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            except (jinja2.TemplateError, TypeError, ValueError) as error:
                raise UserError(
                    f"the chat template refuses a prompt: {str(error).splitlines()[0]}"
                ) from error
            return str(rendered), False
        if pair.text is not None:
            return pair.text, True
        raise UserError(
            "the data are conversations but the tokenizer has no chat template; name one with --chat_template_path"
        )

    def _answer(self, prompt_text: str, special: bool, prompt: list[int], answer: str) -> list[int]:
        """Ids of ``answer`` as they stand behind the prompt, where the prompt's own ids survive that; then the EOS."""
        whole = self._ids(prompt_text + answer, special)
        if whole[: len(prompt)] == prompt:
            return [*whole[len(prompt) :], self.eos_id]
        return [*self._ids(answer, False), self.eos_id]

    def _ids(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special, verbose=False)
        return ids


def _array(ids: list[int]) -> Ids:
    return np.asarray(ids, dtype=np.int32)
