"""Adapters for other programs: diffusers, ComfyUI, kohya's plain LoRA, or merged into a model."""

from mitune.export.merge import merge
from mitune.export.write import FORMATS, Exported, check_request, export_adapter

__all__ = ["FORMATS", "Exported", "check_request", "export_adapter", "merge"]
