"""Which candidates are made to the end, and which are kept."""
