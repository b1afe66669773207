"""What a model is to everything else, and the families of models."""
