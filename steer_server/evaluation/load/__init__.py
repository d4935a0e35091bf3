"""A running server under load: latency, soak, the cost of its metrics."""
