"""Whose answers judges prefer."""
