"""Adapters for other programs: diffusers, ComfyUI, kohya's plain LoRA, or merged into a model."""

from mitune.adapters.export.whole_model import merge
from mitune.adapters.export.write import FORMATS, Exported, check_request, export_adapter

__all__ = ["FORMATS", "Exported", "check_request", "export_adapter", "merge"]
