"""`conceptloom batch`: many training and drawing jobs on many workers."""
