"""MI-Tune: building a set, tuning on it, both in rounds."""
