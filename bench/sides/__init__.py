"""The two sides of each comparison, one a file; started by bench/workers.py, each in the interpreter it needs."""
