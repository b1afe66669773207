"""DoRA and LoRA: layers, files, merging, exports."""
