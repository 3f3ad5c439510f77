"""Measurements anyone can repeat: `python -m bench NAME` writes bench/results/NAME.json and bench/RESULTS.md."""
