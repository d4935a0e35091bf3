"""Measurements: speed side by side, and how well adapters do."""
