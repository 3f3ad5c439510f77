"""A run directory -> one HTML page about it that needs nothing else: no network, no script."""
