"""Sampling between noise and image, on any host."""
