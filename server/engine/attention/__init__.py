"""How packed tokens attend over a cache.

attention_layout.py what a forward asks of any layout
hook.py             attention of transformers' own models
slab_layout.py      over rows of slabs
paged_layout.py     over block tables
candidate_attention.py  of candidates for one place, in either layout
paged_attention.py  attention by block table: plain torch, and which kernel runs
paged_kernel.py     the Triton kernel
"""
