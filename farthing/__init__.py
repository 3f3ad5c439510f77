"""farthing trains reasoning models the way DeepSeek-R1 was trained, and accounts for every farthing of it."""

__version__ = "0.1.0"
