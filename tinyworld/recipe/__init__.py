"""How TinyWorld is trained: one command that goes on where it stopped, `recipe.train`."""
