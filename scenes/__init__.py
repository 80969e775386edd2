"""Training data: pictures, masks, and their preprocessing."""
