"""HTTP: the OpenAI routes with `steering`, and our own routes. No vLLM here."""
