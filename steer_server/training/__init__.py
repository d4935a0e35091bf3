"""Training of adapters from a community's own data."""
