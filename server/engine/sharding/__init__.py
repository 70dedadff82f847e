"""A base whose weights are split over processes: one of them decides, the others do as it does.

Rank 0 has the scheduler, draws tokens and talks to the world. Whatever it does to the caches of members that others hold too
is written into a journal; with the next forward the journal goes to all as one row of integers, followed by the forward's
chunks. A follower does the same to its own caches, in the same order, and runs its part of the forward.

ranks.py     the processes of a group, and what they say to each other: rows of integers and of logits
lifeline.py  who is still there
watch.py     a step that does not come to its end
journal.py   what was done to caches and what is to be run, as integers
leader.py    rank 0's side: caches and forwards that others mirror
follower.py  the other side
group.py     from a family to members on rank 0, and to a follower on every other rank
"""
