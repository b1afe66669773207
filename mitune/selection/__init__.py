"""Decide which candidates are sampled to the end and which are kept."""
