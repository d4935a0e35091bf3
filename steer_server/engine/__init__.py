"""The seam to vLLM, and the only folder that imports it. README.md here says how the bank works."""
