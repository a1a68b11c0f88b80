"""Ollama's API under ``/api/``: chat, generate, embeddings, and what is known of the models.

For: programs made for that API. In: its requests. Out: its objects, as JSON lines where they are streamed.
May not: fetch, make or delete models: that is done on this machine, with ``whimbrel pull``.
"""

from fastapi import APIRouter

from whimbrel.server.ollama import chat, embed, generate, models, refusals

__all__ = ["chat", "embed", "generate", "models", "refusals", "router"]

router = APIRouter()
for module in (chat, generate, embed, models, refusals):
    router.include_router(module.router)
