"""What steering does to perplexity and common knowledge."""
