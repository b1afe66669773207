"""What decides a run: settings as frozen dataclasses, presets, the words to choose from."""
