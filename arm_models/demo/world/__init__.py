"""The made world of a household assistant: its tasks, its language, its conversations and its oracles."""
