"""Where keys and values lie, and what is kept of prompts.

kv_cache.py       rows in slabs: a decode step attends over a slice (CPU)
paged_cache.py    blocks anywhere, found by block tables (CUDA)
prefix_cache.py   prompts that were read, kept for later ones that begin alike
context_cache.py  what the scheduler asks of either cache
"""
