"""Prompts of regions that other packs keep in the MODEL (attention couple), found where they lie.

Such a pack patches the input of cross-attention: it repeats the rows of the positive prompt and
gives each repeat the vectors of another prompt. Nothing of that stands in a conditioning, so the
patches themselves are looked through for contexts whose vectors are known.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from ..ports import Tokens
from .tokens import ContextReader

PATCHES = ("attn2_patch",)  # of `transformer_options`: what changes the context of cross-attention
MOST_THINGS = 5000  # that are looked at; a patch may hold anything
DEEPEST = 8
PLAIN = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, nn.Module)


def patches_contexts(options: Mapping[str, Any]) -> bool:
    """Whether another pack changes the contexts of a pass with these `transformer_options`."""
    patches = options.get("patches") or {}
    return any(patches.get(kind) for kind in PATCHES)


def region_prompts(
    model_options: Mapping[str, Any], conditions: Iterable[Mapping[str, Any]], read: ContextReader
) -> list[Tokens]:
    """Tokens of the prompts that patches of a MODEL, and of hooks on conditionings, hold.

    Args:
        conditions: whose contexts tell the width; their hooks may bring patches too.
    """
    conditions = list(conditions)
    widths = {c["cross_attn"].shape[-1] for c in conditions if c.get("cross_attn") is not None}
    holders = [model_options.get("transformer_options") or {}]
    for condition in conditions:
        hooks = getattr(condition.get("hooks"), "hooks", ())
        holders += [getattr(hook, "transformers_dict", None) or {} for hook in hooks]
    patches = [(options.get("patches") or {}).get(kind) for options in holders for kind in PATCHES]
    prompts: dict[Tokens, None] = {}
    for tensor in _tensors_in(patches):
        if tensor.ndim == 3 and tensor.shape[-1] in widths and tensor.is_floating_point():
            prompts |= dict.fromkeys(tokens for tokens in read(tensor) if tokens)
    return list(prompts)


def _tensors_in(root: Any) -> Iterator[Tensor]:
    """Tensors within reach of a thing: in closures, attributes and containers."""
    waiting, seen = deque([(root, 0)]), set[int]()
    while waiting and len(seen) < MOST_THINGS:
        thing, depth = waiting.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield thing
        elif depth < DEEPEST and not isinstance(thing, PLAIN):
            waiting += [(part, depth + 1) for part in _parts_of(thing)]


def _parts_of(thing: Any) -> list[Any]:
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)
    if isinstance(thing, MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, FunctionType):
        defaults = (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
        return [*(_held_by(cell) for cell in thing.__closure__ or ()), *defaults]
    if hasattr(thing, "model_options"):  # a MODEL: no part of a patch
        return []
    attributes = list(getattr(thing, "__dict__", {}).values())
    return [*attributes, *([type(thing).__call__] if callable(thing) else [])]


def _held_by(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that nobody has bound yet
        return None
