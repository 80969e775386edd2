"""TinyWorld as diffusion transformers: Anima's and Z-Image's own classes at a tiny size.

They draw the same world through its autoencoder.
"""
