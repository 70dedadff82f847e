"""``genarm chat``: a conversation in the terminal, steered while it is answered. It knows a server by its URL only."""
