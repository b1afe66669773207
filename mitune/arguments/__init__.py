"""Command-line options from the fields of a dataclass: their help, their values from words or from
a YAML file, and one line for every mistake.

This package replaces argparse and tyro because both lack what this command line promises: one line
for a mistake, the same check for a file as for words, the presets' numbers as defaults, and a start
without torch.
"""
