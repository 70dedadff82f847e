"""Benchmarks: what guidance costs, as ratios against a peer measured in the same run.

command.py     `genarm bench`: options, the table, the JSON
setup.py       what every scenario gets: models, requests, how often to run
shapes.py      the models measured: the demo's, or random weights of a stated shape
workload.py    the requests: ragged prompts and lengths, different weights for each
peer.py        what people do today: `generate` with a LogitsProcessor that runs the rewards
service.py     a server in a process of its own
result.py      what a scenario found, and the bar it has to reach
comparison.py  two ways to do the same work, run in turn
scenarios/     one file per question
"""
