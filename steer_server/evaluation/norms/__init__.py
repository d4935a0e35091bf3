"""Judgements of social norms, by country."""
