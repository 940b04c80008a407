"""Files to state dicts and back: reading, renaming, filling modules, saving. Knows no model classes."""
