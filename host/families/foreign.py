"""What gives away the files of other programs: pieces of the names of their tensors."""

LORA = (".lora_up.", ".lora_down.", "lora_A.", "lora_B.", ".lora.up.", "_lora.up", ".hada_w1")
CHECKPOINT = ("model.diffusion_model.", "first_stage_model.")
CONTROLNET = ("control_model.", "controlnet_")
DIFFUSION_MODEL = ("down_blocks.", "input_blocks.", "double_blocks.", "transformer_blocks.")
TEXT_ENCODER = ("text_model.encoder.",)
EMBEDDING = {"clip_l", "clip_g", "clip_h", "emb_params", "t5xxl"}  # whole names
