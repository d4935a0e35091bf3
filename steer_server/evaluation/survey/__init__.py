"""Distance of answers from people's, by country."""
