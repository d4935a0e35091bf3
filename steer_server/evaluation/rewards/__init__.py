"""What scoring costs, and what best-of-n gains."""
