"""MI-Tune: build a set, tune on it, and repeat both in rounds."""
