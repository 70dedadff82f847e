"""From the members' logits to a token, and what is told about it.

readout.py     which logits a draw comes from
mix.py         every row adds up its members' logits with its own weights
drawing.py     the whole way, without waiting for the device
candidates.py  the best tokens scored by reward models with a scalar head
divergence.py  KL to the base, and rows pulled back within a limit
penalties.py   bias, penalties, and what a grammar allows
sampler.py     temperature, truncation, one draw per row
marks.py       log-probs of tokens that are there already
prompt_logprobs.py  the same of a prompt's tokens, under the mix
report.py      log-probs, and what guidance did
"""
