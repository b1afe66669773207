"""Embedded worlds, whose pictures an oracle can judge."""
