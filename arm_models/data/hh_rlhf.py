"""Anthropic's hh-rlhf (MIT): two transcripts that share all but the last assistant turn."""

import re

from arm_models.data.pair import Format, Message, PreferencePair, Row, RowError, text_field

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"


def _is_transcript(row: Row) -> bool:
    texts = [row.get("chosen"), row.get("rejected")]
    return "prompt" not in row and all(isinstance(t, str) and t.startswith((HUMAN, HUMAN[2:])) for t in texts)


def transcript_pair(row: Row) -> PreferencePair:
    """The prompt ends with the last shared "\\n\\nAssistant:"; a model without a chat template gets it as it stands."""
    chosen, rejected = text_field(row, "chosen"), text_field(row, "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    end = chosen.rfind(ASSISTANT, 0, shared)
    if end < 0:
        raise RowError(f"rejected: must share a prompt that ends with {ASSISTANT!r} with chosen")
    end += len(ASSISTANT)
    prompt = chosen[:end]
    return PreferencePair(_turns(prompt), prompt, chosen[end:].strip(), rejected[end:].strip(), joint=" ")


def _turns(prompt: str) -> tuple[Message, ...]:
    """The turns before the answer; raises RowError where the transcript does not begin with one."""
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", prompt.removesuffix(ASSISTANT))
    if parts[0].strip() or len(parts) < 3:
        raise RowError(f"chosen: must begin with {HUMAN!r}")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        Message(roles[role], text.strip()) for role, text in zip(parts[1::2], parts[2::2], strict=True)
    )


HH_RLHF = Format(
    "hh-rlhf", 'chosen, rejected ("\\n\\nHuman: … \\n\\nAssistant: …")', _is_transcript, transcript_pair
)
