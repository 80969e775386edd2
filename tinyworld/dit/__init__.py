"""TinyWorld as diffusion transformers: Anima's and Z-Image's own classes at a tiny size.

They draw the second edition's world through its autoencoder.
"""
