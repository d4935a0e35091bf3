"""How well a preference vector weighs one value axis against another."""
