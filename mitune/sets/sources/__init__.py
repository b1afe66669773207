"""The kinds of source from which captioned pictures are read."""
