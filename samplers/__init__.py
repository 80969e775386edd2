"""Between noise and image, on any host."""
