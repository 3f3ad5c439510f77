"""Text to train on: documents made from problems, and their way into batches."""
