"""Benchmarks of prompts by category: draw, score, and leave what their official scorers read."""
