"""What every other package may use: errors, files, prompts, pictures, what a run tells of itself."""
