"""What operators change while the server runs: only callers whose key is an administrator's, and none without keys.

changes.py   one change of the rewards at a time: loaded, let in, and what it replaced let go
rewards.py   its routes
"""
