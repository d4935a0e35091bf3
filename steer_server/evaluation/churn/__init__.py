"""A running server while its adapters come and go."""
