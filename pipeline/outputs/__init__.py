"""Where finished text goes: one module per kind of place."""
