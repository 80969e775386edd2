"""ComfyUI as host: besides the nodes, the only package that may import `comfy*`.

Nothing is imported here, so that importing the pack costs the host nothing; take what you need
from its module (`host.ComfyHost`, `apply.apply_concept`, `edits.with_edits`, ...).
"""
