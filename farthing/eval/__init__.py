"""A model on held-out problems -> accuracy with its uncertainty."""
