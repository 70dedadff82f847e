"""What answers are worth, by several who judge: the demo's oracles, reward models, a language model that compares."""
