"""A network behind a server. Nothing here is imported before it is asked for."""
