"""What people look at: drawing, overlays, plots."""
