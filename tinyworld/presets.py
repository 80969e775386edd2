"""Numbers that every method takes to learn on TinyWorld; the rest is in `methods/*/spec.py`.

TinyWorld is a thousandth of Stable Diffusion: it bears, and needs, larger steps. With low-rank
changes it forgets little in so few of them, and would learn little beside class images.
"""

from __future__ import annotations

from ..training.adapters import Scope
from .scenes import SIZE as SIZE  # px; photographs come at its size

CFG = 3.0  # of previews and class images
HANDLE_RATE, FULL_RATE = 5e-3, 5e-4  # of vectors of words, and of every weight
RATE_OF_SCOPE = {
    Scope.HANDLES: HANDLE_RATE,
    Scope.CROSS_ATTENTION_KV: 2e-3,
    Scope.CROSS_ATTENTION: 3e-4,  # all of it
    Scope.LOW_RANK: 2e-3,
    Scope.FULL: FULL_RATE,
}
PRIOR_RATE = 1e-2  # of a name that learns through TinyWorld's diffusion prior
