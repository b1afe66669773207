"""For those who have a diffusers pipeline: the scores of its own pictures, and its best of many."""
