"""The kinds of source that captioned pictures are read from, and what is told of them."""
