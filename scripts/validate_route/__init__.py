"""POST /validate for a ComfyUI under test: its verdict on a prompt that is not queued.

comfy-test's execution level asks for this route before it queues. Its authors install a pack of
their own for it (ComfyUI-validate-endpoint); this one answers the same with ComfyUI's own check.
"""

import uuid

import execution
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


@PromptServer.instance.routes.post("/validate")
async def validate(request: web.Request) -> web.Response:
    """Takes what /prompt takes; 400 where /prompt would refuse."""
    prompt = (await request.json())["prompt"]
    valid, error, _, node_errors = await execution.validate_prompt(str(uuid.uuid4()), prompt, None)
    return web.json_response(
        {"error": error, "node_errors": node_errors}, status=200 if valid else 400
    )
