"""Point-wise mutual information of prompt and image."""
