"""TinyWorld: a Stable-Diffusion-1-shaped model small enough to ship, and the world it learned.

The renderer knows the truth about every picture, so identity, localisation, leakage and
background are measured by a judge (`judge/`) and not by taste. `load_tinyworld` in `checkpoint`
needs the optional `diffusers`; `scenes`, `members` and `concepts` need numpy only.
"""
