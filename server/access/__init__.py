"""Who may use a server, and with which weights.

caller.py what is known of whoever sends a request
ranges.py which weights are allowed, and the refusal of others
"""

from server.access.caller import Caller
from server.access.ranges import Range

__all__ = ["Caller", "Range"]
