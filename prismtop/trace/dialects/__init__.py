"""Traces that somebody else wrote, as batches, stages and counters."""
