"""Point-wise mutual information between a prompt and an image."""
