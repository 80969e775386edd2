"""Names that are specific to a model family: one module per family, for both hosts."""
