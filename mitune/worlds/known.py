"""The embedded worlds, by the names of their models."""

from collections.abc import Mapping

from mitune.worlds.shapes.world import SHAPES
from mitune.worlds.shapes_v1.world import SHAPES_V1
from mitune.worlds.world import World

WORLDS: Mapping[str, World] = {world.name: world for world in (SHAPES, SHAPES_V1)}
