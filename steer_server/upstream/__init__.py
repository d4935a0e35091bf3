"""Models of OpenAI-compatible endpoints elsewhere, served beside our own as `NAME/model`."""
