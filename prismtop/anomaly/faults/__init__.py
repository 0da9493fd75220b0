"""Faults, one module per family. Each says whether it can run here, what it would do, and does it."""
