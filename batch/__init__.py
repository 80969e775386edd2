"""`conceptloom batch`: a table of concepts to learn and pictures to draw, over many workers."""
