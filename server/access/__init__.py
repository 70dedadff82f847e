"""Who may use a server, and with which weights.

caller.py      what is known of whoever sends a request
ranges.py      which weights are allowed, and the refusal of others
key_file.py    the file of API keys
key_ring.py    keys to callers, in constant time; follows the file
hosts.py       which Host headers are answered
key_command.py `genarm key`
"""

from server.access.caller import Caller
from server.access.hosts import Hosts, is_loopback
from server.access.key_file import KeyEntry, plain_key, read_key_file
from server.access.key_ring import KeyRing
from server.access.ranges import Range, check_weights, intersected

__all__ = [
    "Caller",
    "Hosts",
    "KeyEntry",
    "KeyRing",
    "Range",
    "check_weights",
    "intersected",
    "is_loopback",
    "plain_key",
    "read_key_file",
]
