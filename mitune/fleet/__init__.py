"""Building one set with many GPUs and machines."""
