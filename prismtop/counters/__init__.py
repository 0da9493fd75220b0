"""Readings of host, GPUs and interconnects, each with unit and source, or with the reason for its gap."""
