"""Studies on an embedded world: ``mitune study NAME``.

A study compares models that were tuned in different ways, its *arms*. For each seed it draws the
pools that the arms choose from (``pools``), lets each arm choose and tune (``choice``, ``tuned``),
draws held-out prompts with the base model and every arm from the same noise (``drawn``), and lets
the world's oracle judge these pictures. Only ``drawn`` and ``agreement`` read an oracle, and what
selects and trains (``pools``, ``choice``, ``tuned``) imports neither. Every step leaves a file and
is not done again.
"""
