"""The embedded worlds, by the names of their models."""

from collections.abc import Mapping

from mitune.worlds.shapes.world import SHAPES
from mitune.worlds.shapes2.world import SHAPES2
from mitune.worlds.world import World

WORLDS: Mapping[str, World] = {world.name: world for world in (SHAPES, SHAPES2)}
