"""Ways to steer a model whose weights stay as they are, side by side."""
