"""What every other package may use: errors, files, prompts, pictures, provenance."""
