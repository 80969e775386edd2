"""ConceptLoom: teach a text-to-image model new visual concepts and put them where they belong.

Nothing is imported here: ComfyUI, pytest and `import conceptloom` all run this file, and only
the first of them has a host to offer.
"""

__version__ = "0.2.0"

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI once it has loaded the pack; the nodes come in only then."""
    from .nodes import ConceptLoomExtension

    return ConceptLoomExtension()
