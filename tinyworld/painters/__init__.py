"""What the world's classes look like: one painter each, from parameters to a picture with parts."""
