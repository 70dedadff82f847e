"""Preference data: JSONL rows of any known form → pairs → token ids.

pair.py            a prompt and two answers; what is wrong with a row
standard.py        {prompt, chosen, rejected} as text or messages, and the same with the prompt left implicit
hh_rlhf.py         Anthropic's hh-rlhf: "\\n\\nHuman: … \\n\\nAssistant: …"
pku_saferlhf.py    PKU-SafeRLHF: prompt, response_0, response_1 and whose id is better or safer
ultrafeedback.py   UltraFeedback, binarized: a prompt as text, both conversations as messages
helpsteer.py       HelpSteer2 and HelpSteer3: two responses and a signed preference
dataset.py         a file of rows in one of these forms; `FORMATS` lists them
encoding.py        pairs → the token ids a server would see
"""

from arm_models.data.dataset import FORMATS, PreferenceData, read_pairs, split_by_prompt
from arm_models.data.encoding import EncodedPair, PairEncoder
from arm_models.data.pair import Message, PreferencePair

__all__ = [
    "FORMATS",
    "EncodedPair",
    "Message",
    "PairEncoder",
    "PreferenceData",
    "PreferencePair",
    "read_pairs",
    "split_by_prompt",
]
