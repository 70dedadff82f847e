"""A server of several processes that share one base: who starts them, what each of them does, and how they end.

seat.py     which process of a group this is, as the environment says it
launch.py   starts the processes of a group on this machine and answers for them
lead.py     rank 0: the server, which ends when another process does
follow.py   the others
"""
