"""How fast and how large: what a model needs, what it takes, and what the machine allows."""
