"""``genarm compare``: the methods of the family trained, run and measured against each other on the demo world.

plan.py        how much of everything: models, data, settings, prompts
stages.py      commands one after the other or side by side, none repeated, with a bar and an estimate
pretraining.py the small model that small rewards start from
models.py      which models are trained, and how
sweeps.py      which deployments answer which settings
costing.py     every method by itself: times and counts
results.py     answers → rows, the training seeds together or one by one
claims.py      what was claimed, what was measured, whether it holds
document.py    the pages and pictures that are written from it
"""
