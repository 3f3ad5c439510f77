"""One command-line verb a file; heavy imports stay inside the functions."""
