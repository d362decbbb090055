"""The command line: ``cgru …``."""
