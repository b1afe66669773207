"""The interface of a model, and the families of models."""
