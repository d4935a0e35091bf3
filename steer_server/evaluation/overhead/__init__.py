"""What the HTTP part costs beside stock vLLM's own."""
