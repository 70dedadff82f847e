"""Benchmarks: what guidance costs, as ratios against a peer measured in the same run.

command.py    `genarm bench`: options, the table, the JSON
shapes.py     the models measured: the demo's, or random weights of a stated shape
workload.py   the requests: ragged prompts and lengths, different weights for each
peer.py       what people do today: `generate` with a LogitsProcessor that runs the rewards
scenario.py   one file's worth of comparisons, each a ratio with the samples behind it
"""
