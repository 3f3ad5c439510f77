"""Verbs of the command line, one file each; nothing heavy is imported before a verb runs."""
