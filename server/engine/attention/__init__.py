"""How packed tokens attend over a cache.

slab_layout.py      over rows of slabs, and the hook into transformers' own models
paged_layout.py     over block tables
paged_attention.py  attention by block table: plain torch, and which kernel runs
paged_kernel.py     the Triton kernel
"""
