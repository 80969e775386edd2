"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618), as a method that the pack does not bring.

Tests copy this folder beside the methods: nothing else has to know of it.
"""
