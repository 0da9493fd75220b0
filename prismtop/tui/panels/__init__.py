"""Panels: pure functions from a `Frame` and a width to `Line`s."""
