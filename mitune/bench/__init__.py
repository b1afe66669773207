"""Benchmarks: what ``mitune bench`` prints and ``bench/`` stores."""
