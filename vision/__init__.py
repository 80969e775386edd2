"""Vision models behind small interfaces: segmentation, VQA, diffusion prior."""
