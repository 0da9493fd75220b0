"""Readings of the host, of GPUs and of interconnects, each with a unit and a source, or with the reason why not."""
