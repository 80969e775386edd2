"""Sound LoRA files made bad: bytes, lengths, types, shapes, numbers, names, promises, metadata.

Every mutation takes the parts of a file and gives the bytes of another; the same random numbers
give the same bytes.
"""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import torch

from .lora_kinds import SPELLINGS, Tensors

Metadata = dict[str, Any]
_NAMES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
_OTHER_TYPES = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "U16", "U32", "U64", "X9", "", "f32", None)
HUGE = (2**31, 2**40, 2**62, 2**63, 2**64, 10**30, -1)
LONG = ((120_000, 1), (1, 120_000), (120_000, 1, 1, 1), (1, 120_000, 1, 1), (350, 350))
EXTREMES = (float("nan"), float("inf"), float("-inf"), 1e38, -3e38, 1e-45, 0.0)
PARTS = (
    "lora_mid.weight", "dora_scale", "reshape_weight", "diff", "diff_b", "set_weight", "w_norm",
    "b_norm", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1",
    "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "a1.weight",
    "a2.weight", "b1.weight", "b2.weight", "oft_blocks", "rescale", "alpha",
    *(part for pair in SPELLINGS for part in pair),
)  # fmt: skip
TEXTS = (
    "../../../../tmp/evil", "/etc/passwd", "C:\\Windows\\x", "~/.ssh/id", "a/../../b", "con", "..",
    "\x00", "a\x1b[2J\x07b", "line\r\nbreak\x0b", "\u202eabc\u2066", "\ud800", "\U0001f4a9" * 20,
    " ", "<lora:x:1>", "((((", "{{7*7}}", "embedding:x", "a" * 500,
)  # fmt: skip
LONG_TEXTS = (
    "a" * 3_000_000,
    "word " * 200_000,
    json.dumps({f"tag {n}": n for n in range(50_000)}),
)
KEYS = ("modelspec.trigger_phrase", "trigger_words", "ss_trigger_words", "activation text",
        "modelspec.title", "ss_output_name", "name", "ss_tag_frequency", "modelspec.thumbnail",
        "conceptloom", "format", "")  # fmt: skip


def packed(header: dict[str, Any], data: bytes, length: int | None = None) -> bytes:
    """A file with this header; `length` in place of the header's own."""
    text = json.dumps(header, ensure_ascii=True).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def parts_of(tensors: Tensors, metadata: Metadata | None = None) -> tuple[dict[str, Any], bytes]:
    """Header and data of a file."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, tensor in tensors.items():
        flat = tensor.contiguous().reshape(-1)
        raw = bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else b""
        span = [len(data), len(data) + len(raw)]
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": span}
        data += raw
    return header, data


def content_of(tensors: Tensors, metadata: Metadata | None = None) -> bytes:
    return packed(*parts_of(tensors, metadata))


def torn(tensors: Tensors, dice: random.Random) -> bytes:
    """Bytes of the header turned, lost, doubled or put in."""
    whole = bytearray(content_of(tensors))
    end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(dice.randrange(1, 4)):
        at, count = dice.randrange(end), dice.randrange(1, 9)
        kind = dice.randrange(4)
        if kind == 0:
            whole[at] = dice.randrange(256)
        elif kind == 1:
            del whole[at : at + count]
        elif kind == 2:
            whole[at:at] = whole[at : at + count]
        else:
            whole[at:at] = dice.randbytes(count)
    return bytes(whole)


def cut(tensors: Tensors, dice: random.Random) -> bytes:
    """Cut short, too long, or with another length of the header; sometimes only noise."""
    header, data = parts_of(tensors)
    whole = packed(header, data)
    kind = dice.randrange(4)
    if kind == 0:
        return whole[: dice.randrange(len(whole))]
    if kind == 1:
        return whole + dice.randbytes(dice.randrange(1, 5000))
    if kind == 2:
        length = dice.choice((*(h for h in HUGE if 0 <= h < 2**64), dice.randrange(5000)))
        return packed(header, data, length)
    return dice.randrange(200).to_bytes(8, "little") + dice.randbytes(dice.randrange(300))


def retyped(tensors: Tensors, dice: random.Random) -> bytes:
    """Another type of number: truly converted, only said so, or unknown."""
    tensors = dict(tensors)
    name = dice.choice(list(tensors))
    if dice.random() < 0.5:
        chosen = list(tensors) if dice.random() < 0.3 else [name]
        dtype = dice.choice(list(_NAMES))
        tensors |= {one: tensors[one].to(dtype) for one in chosen}
        return content_of(tensors)
    header, data = parts_of(tensors)
    entry = header[name]
    entry["dtype"] = dice.choice((*_NAMES.values(), *_OTHER_TYPES))
    if dice.random() < 0.5:  # as many numbers as the bytes hold
        begin, end = entry["data_offsets"]
        bits = {
            "F4": 4,
            "F6_E2M3": 6,
            "F6_E3M2": 6,
            "F64": 64,
            "I64": 64,
            "U64": 64,
            "C64": 64,
            "F16": 16,
            "BF16": 16,
            "I16": 16,
            "U16": 16,
            "F32": 32,
            "I32": 32,
            "U32": 32,
        }
        entry["shape"] = [(end - begin) * 8 // bits.get(entry["dtype"] or "", 8)]
    return packed(header, data)


def reshaped(tensors: Tensors, dice: random.Random) -> bytes:
    """One or two parts in shapes that do not fit, also long and thin ones with a huge product."""
    tensors = dict(tensors)
    for name in dice.sample(list(tensors), dice.randrange(1, 3)):
        old, kind = tensors[name], dice.randrange(8)
        if kind == 0:
            shape = tuple(dice.randrange(6) for _ in range(dice.randrange(6)))
        elif kind == 1:
            shape = tuple(reversed(old.shape))
        elif kind == 2:
            shape = dice.choice(((), (0,), (1,), (1, 0), (0, 4), (1,) * 9))
        elif kind == 3:
            shape = dice.choice(LONG)
        elif kind == 4:
            shape = (*old.shape, 1)
        elif kind == 5:
            shape = (1, *old.shape)
        elif kind == 6:
            shape = (old.numel(),)
        else:
            shape = tuple(max(0, side + dice.randrange(-1, 2)) for side in old.shape)
        same = old.numel() == torch.Size(shape).numel()
        tensors[name] = old.reshape(shape) if same else torch.full(shape, 0.01)
    return content_of(tensors)


def renumbered(tensors: Tensors, dice: random.Random) -> bytes:
    """NaN, infinities, the largest and smallest numbers, in one place or everywhere."""
    tensors, value = dict(tensors), dice.choice(EXTREMES)
    for name in dice.sample(list(tensors), dice.randrange(1, 4)):
        changed = tensors[name].clone().reshape(-1)
        if dice.random() < 0.3:
            changed[:] = value
        else:
            changed[dice.randrange(len(changed))] = value
        tensors[name] = changed.reshape(tensors[name].shape)
    return content_of(tensors)


def renamed(tensors: Tensors, dice: random.Random) -> bytes:
    """Parts that are missing, of another kind, or with names that no program writes."""
    tensors = dict(tensors)
    for _ in range(dice.randrange(1, 4)):
        name = dice.choice(list(tensors))
        module, kind = name.partition(".")[0], dice.randrange(5)
        part = next((p for p in PARTS if name.endswith(f".{p}")), "")
        module = name[: -len(part) - 1] if part else name
        if kind == 0 and len(tensors) > 1:
            del tensors[name]
        elif kind == 1:
            tensors[f"{module}.{dice.choice(PARTS)}"] = tensors[name]
        elif kind == 2:
            tensors[f"{module}.{dice.choice(PARTS)}"] = tensors.pop(name)
        elif kind == 3:
            odd = dice.choice([text for text in TEXTS if "\ud800" not in text])
            odd = odd if dice.random() < 0.98 else "n" * 300_000
            tensors[f"{odd}{dice.choice(('', f'.{part}'))}"] = tensors.pop(name)
        else:
            other = dice.choice(list(tensors))
            tensors[name], tensors[other] = tensors[other], tensors[name]
    return content_of(tensors)


def promised(tensors: Tensors, dice: random.Random) -> bytes:
    """Shapes, places and counts of any size in a header that is otherwise sound."""
    header, data = parts_of(tensors)
    name, huge = dice.choice(list(header)), dice.choice(HUGE)
    changes: list[dict[str, Any]] = [
        {"shape": [huge]},
        {"shape": [huge, huge]},
        {"shape": [huge, 0], "data_offsets": [0, 0]},
        {"shape": [1] * 70},
        {"shape": "4"},
        {"shape": None},
        {"shape": [1.5]},
        {"shape": [[1]]},
        {"data_offsets": [0, huge]},
        {"data_offsets": [huge, huge]},
        {"data_offsets": [8, 0]},
        {"data_offsets": []},
        {"shape": [huge // 4], "data_offsets": [0, huge]},
        {"dtype": {}},
    ]
    bad = {**header, name: {**header[name], **dice.choice(changes)}}
    if dice.random() < 0.1:
        bad = {**header, name: dice.choice((None, [], "x", 1))}
    return packed(bad, data)


def told(tensors: Tensors, dice: random.Random) -> bytes:
    """Hostile metadata of a sound file: paths, control characters, megabytes, bombs of JSON."""
    is_long = dice.random() < 0.03
    depth = dice.choice((10, 100_000 if is_long else 2_000))
    texts = LONG_TEXTS if is_long else TEXTS
    tag = json.dumps(dice.choice(texts))
    bombs = [
        "[" * depth + "]" * depth,
        '{"a":' * depth + "1" + "}" * depth,
        '{"folder": {"tag": 1e999}}',
        '{"folder": {"tag": NaN, "b": Infinity, "c": -Infinity}}',
        f'{{"folder": {{"tag": {"9" * dice.choice((400, 6_000))}}}}}',
        '{"folder": {"tag": true, "": 3, "x": "4", "y": [5], "z": null}}',
        f'{{"folder": {{{tag}: 7}}}}',
        '{"folder": [1], "other": "x", "third": {"nested": {"a": 1}}}',
        json.dumps({"f": {f"tag {n}": n for n in range(50_000 if is_long else 10)}}),
        "null", "1", '"x"', "", "{", '{"a": {"b": 1}', "\x00",
    ]  # fmt: skip
    metadata: Metadata = {}
    for key in dice.sample(KEYS, dice.randrange(1, 4)):
        if key == "ss_tag_frequency":
            metadata[key] = dice.choice(bombs)
        elif key == "modelspec.thumbnail":
            metadata[key] = f"data:image/png;base64,{_thumbnail(dice)}"
        else:
            metadata[key] = dice.choice((*texts, *bombs[:2]))
    if dice.random() < 0.1:
        metadata[dice.choice(KEYS)] = dice.choice((1, None, [], {"a": "b"}, True))
    return content_of(tensors, metadata)


def _thumbnail(dice: random.Random) -> str:
    sizes = ((8, 8), (60_000, 60_000), (2**31 - 1, 1), (0, 0), (16_000, 16_000))
    data = _png(*dice.choice(sizes))
    kind = dice.randrange(4)
    if kind == 0:
        data = data[: dice.randrange(len(data))]
    elif kind == 1:
        data = dice.randbytes(dice.randrange(200))
    text = base64.b64encode(data).decode()
    return text if kind < 3 else text + dice.choice(("=", "!", "\n", "A", "é"))


def _png(width: int, height: int) -> bytes:
    """A picture of one colour that says it is this large and holds little."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", size), chunk(b"IDAT", _ZEROS), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_ZEROS = zlib.compress(bytes(2**20), 9)

MUTATIONS: dict[str, Callable[[Tensors, random.Random], bytes]] = {
    "bytes of the header": torn,
    "lengths": cut,
    "types": retyped,
    "shapes": reshaped,
    "NaN and infinity": renumbered,
    "names": renamed,
    "huge promises": promised,
    "metadata": told,
}
