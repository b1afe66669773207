"""Options of a command line from the fields of a dataclass: their help, their values in words or in
a YAML file, and one line for every mistake.

Written here rather than taken from argparse or tyro, because both leave open what this command line
promises: one line for a mistake, the same check for a file as for words, the presets' numbers as
defaults, and a start without torch.
"""
