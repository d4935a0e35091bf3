"""Steering without touching the answering model: what it is asked, and what it answered, are changed."""
