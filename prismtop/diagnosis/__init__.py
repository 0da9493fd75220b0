"""Causes of an episode: evidence, hypotheses, ranking."""
