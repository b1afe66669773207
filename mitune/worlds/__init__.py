"""Embedded worlds: small models whose pictures an oracle can judge."""
