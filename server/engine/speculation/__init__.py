"""Tokens guessed ahead; no answer changes.

speculation.py  who guesses, for whom, and what stands
drafting.py     what is known of one answer's guesses
lookup.py       guesses from where the text stood before
pace.py         how far ahead
costs.py        what steps have cost
"""
