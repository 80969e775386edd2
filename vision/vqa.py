"""BLIP-2 as VQA model (Li et al. 2023, arXiv 2301.12597).

The official code asks Salesforce/blip2-flan-t5-xl (coach.py:110-120, 55-76); any BLIP-2 that
transformers reads works. All files come from a local folder, in safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..concepts.fingerprints import modules_digest
from .local_files import check_kind, from_folder
from .offload import FreeVRAM, OffloadedModules

LONGEST_ANSWER = 20  # new tokens, as transformers' own default; a word or two is enough
PROMPT = "Question: {} Answer:"  # what BLIP-2's language models without instruction tuning expect


class Blip2:
    """A BLIP-2 model; on the device only while in use.

    Args:
        model: transformers' Blip2ForConditionalGeneration.
        processor: its Blip2Processor.
        device: where it computes.
        free_vram: see `OffloadedModules`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        device: torch.device,
        free_vram: FreeVRAM | None = None,
    ) -> None:
        self._model, self._processor = model, processor
        self._offloaded = OffloadedModules([model], device, free_vram)
        self.name = f"blip2 {modules_digest('blip2', [model])[:16]}"
        # Flan-T5 follows a question as it is (coach.py:67); OPT completes a text.
        self._is_instructed = not bool(model.config.use_decoder_only_language_model)

    @torch.no_grad()
    def answer(self, image: Tensor, question: str) -> str:
        self._offloaded.onload()
        pixels = (image[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()
        text = question if self._is_instructed else PROMPT.format(question)
        inputs = self._processor(images=pixels, text=text, return_tensors="pt")
        inputs = inputs.to(self._offloaded.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        # Greedy: the same picture has the same answer.
        tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST_ANSWER)
        if not self._is_instructed:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return str(self._processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()

    def offload(self) -> None:
        self._offloaded.offload()


def load_blip2(
    folder: Path, device: torch.device, dtype: torch.dtype, free_vram: FreeVRAM | None = None
) -> Blip2:
    """BLIP-2 from a folder as transformers saves it: config, *.safetensors, tokenizer, processor.

    Raises:
        ModelError: files are missing, hold pickles, or are of another model.
    """
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    check_kind(folder, "BLIP-2", "Salesforce/blip2-flan-t5-xl", "blip-2")
    model = from_folder(Blip2ForConditionalGeneration, folder, dtype)
    if dtype is torch.float16:  # transformers 4.50 forgets what its Flan-T5 keeps, inside of BLIP-2
        for name, part in model.named_modules():
            if name.endswith(".DenseReluDense.wo"):
                part.float()
    processor = from_folder(Blip2Processor, folder)
    _place_picture(model.config, processor)
    return Blip2(model, processor, device, free_vram)


def _place_picture(config: Any, processor: Any) -> None:
    """Set the position of the picture in the text, which copies from before 2025 lack.

    Source: what transformers' own warning told to do about them. The token takes a row that both
    language models have free: 32,100 of 32,128 in Flan-T5, 50,265 of 50,272 in OPT.
    """
    if processor.num_query_tokens is None:
        processor.num_query_tokens = config.num_query_tokens
    if config.image_token_index is None:
        token = str(processor.image_token)
        config.image_token_index = processor.tokenizer.convert_tokens_to_ids(token)
