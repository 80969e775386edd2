"""What only one family of models has: its names. One module a family, for both hosts."""
