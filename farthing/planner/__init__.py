"""What a run should take, and what others say theirs took: hardware, claims, comparison. No torch."""
