"""Adapter packages: what they say of themselves, whether they can be trusted, and what is loaded now."""
