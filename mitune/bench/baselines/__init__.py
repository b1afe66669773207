"""The loops that ours is measured against, stated plainly."""

from mitune.bench.baselines.loops import AuthorsLoop, FairLoop

__all__ = ["AuthorsLoop", "FairLoop"]
