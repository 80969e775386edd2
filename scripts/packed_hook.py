"""comfy-test's custom level: what its coverage and validation mean, for nodes that it cannot see.

Both levels read `NODE_CLASS_MAPPINGS` and widgets of V1; this pack registers by
`comfy_entrypoint`. So the running server is asked instead. Runs inside comfy-test only.
"""

from __future__ import annotations

import json
from typing import Any

from comfy_test.comfyui.workflow import litegraph_to_prompt
from comfy_test.common.errors import TestError

MODULE = "custom_nodes.conceptloom"
# Every other node is in a workflow. These have help pages, host tests and torture tests.
IN_NO_WORKFLOW = {
    # need the network, or models that came from it
    "ConceptLoomDownloadLabModel",
    "ConceptLoomDownloadSegmenter",
    "ConceptLoomSegmentByText",
    # steps of Masked Blended Edit, which is in two workflows
    "ConceptLoomCompositeSeam",
    "ConceptLoomMaskedBlendedSampler",
    # gives what LAG Sampler gives besides pictures
    "ConceptLoomLagMaps",
    # learns for minutes before anything is to be seen
    "ConceptLoomConceptDiscovery",
}


def run(ctx: Any) -> None:
    """Raise where a node is in no workflow, or ComfyUI refuses one.

    Args:
        ctx: comfy-test's LevelContext, with the API of a server that is up.
    """
    schemas = ctx.api.get_object_info()
    own = {name for name, schema in schemas.items() if schema["python_module"] == MODULE}
    if not own:
        raise TestError(f"no node of {MODULE} in /object_info")
    used: set[str] = set()
    for path in ctx.config.workflow.workflows:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        prompt = litegraph_to_prompt(workflow, schemas)
        verdict = ctx.api.session.post(f"{ctx.api.base_url}/validate", json={"prompt": prompt})
        # ComfyUI runs what is right of a prompt, so one node that is wrong is no refusal yet.
        if not verdict.ok or verdict.json()["node_errors"]:
            raise TestError(f"ComfyUI refuses {path.name}", verdict.text)
        used |= {node["class_type"] for node in prompt.values()} & own
    left = own - used
    ctx.log(f"ComfyUI accepts {len(ctx.config.workflow.workflows)} workflows; in them are "
            f"{len(used)} of {len(own)} nodes")  # fmt: skip
    if left != IN_NO_WORKFLOW:
        raise TestError("the list of nodes that are in no workflow is not true",
                        "\n".join(sorted(left ^ IN_NO_WORKFLOW)))  # fmt: skip
