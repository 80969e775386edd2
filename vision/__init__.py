"""What sees: segmentation, questions to a picture, and the prior, behind small ports."""
