"""Metrics of pictures and prompts, over model classes that transformers maintains
(``mitune.scoring.scorer`` is the protocol; ``mitune.scorers.known`` finds one by name)."""
