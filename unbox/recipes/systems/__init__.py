"""The systems' recipes: a method is settings, roles and turns over the one training loop."""
