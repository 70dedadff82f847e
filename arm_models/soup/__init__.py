"""Rewarded Soups (arXiv 2306.04488): averages of models trained from one start for different rewards, θ = Σ w_i θ_i.

part.py        a model and its weight; what has to agree before weights can be averaged
average.py     the averages of tensors: of full weights, of LoRA updates, of LoRA factors
files.py       checkpoints in, one checkpoint out
command.py     `genarm soup`
"""

from arm_models.soup.files import METHODS, make_soup
from arm_models.soup.part import Part, read_parts

__all__ = ["METHODS", "Part", "make_soup", "read_parts"]
