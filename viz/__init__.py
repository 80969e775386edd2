"""Previews for users: drawing, overlays, plots."""
