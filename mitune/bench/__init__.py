"""Benchmarks: ``mitune bench`` prints their results, ``bench/`` stores them."""
