"""Benchmarks: what guidance costs, as ratios against a peer measured in the same run.

command.py     `genarm bench`: options, which scenarios to run
findings.py    what they found, kept in a file from which a stopped run goes on
table.py, chart.py    the same as text and as a picture
machine.py, malloc.py    what it is taken on; malloc alike for all sides
setup.py       what every scenario gets: models, requests, how often to run, limits
shapes.py      the models measured: the demo's, or random weights of a stated shape, and adapters
workload.py    the requests: ragged prompts and lengths, different weights for each
scenarios/     one file per question

result.py      what a scenario found, and the bar it has to reach
comparison.py  two ways to do the same work, run in turn: rates
cost.py        two kinds of steps, run in turn: times, beside the ratio that the work itself says
growth.py      how times of steps grow along batch, context and rewards
steady.py      decode steps at one batch and one context, nothing else going on
weighing.py    bytes and operations of a step, from the loaded weights
bandwidth.py   how fast memory is read here
peer.py        what people do today: `generate` with a LogitsProcessor that runs the rewards
service.py     servers in processes of their own: ours, and transformers'
client.py, latency.py    streams read over HTTP; when their tokens came
bodies.py, crowd.py      completions to ask for; many clients of one key in a process of their own
"""
