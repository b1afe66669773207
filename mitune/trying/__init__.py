"""A local page to type a prompt into: candidates with their mutual information, base beside
tuned."""
