"""Steer a language model's values per request, while it serves."""

__version__ = "0.1.0"
