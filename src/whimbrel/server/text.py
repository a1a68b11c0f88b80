"""``/tokenize``, ``/detokenize``, ``/apply-template``: what lies between messages, text and token ids."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from whimbrel.server.documented import ERRORS
from whimbrel.server.fields import Body
from whimbrel.server.openai.chat import Message
from whimbrel.server.openai.messages import for_template
from whimbrel.server.service import Service

router = APIRouter()


class TokenizeBody(Body):
    """A text (``content``, as llama.cpp has it, or ``prompt``), or messages.

    ``add_special_tokens`` is vLLM's name of ``add_special``.
    """

    content: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    model: str | None = None
    add_special: bool = True
    add_special_tokens: bool | None = None
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(Body):
    """Token ids."""

    tokens: list[int]
    model: str | None = None


class TemplateBody(Body):
    """Messages, and what the template may want beside them."""

    messages: list[Message]
    model: str | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


@router.post("/tokenize", responses=ERRORS)
async def tokenize(body: TokenizeBody, request: Request) -> dict[str, Any]:
    """Ids of a text, or of a rendered conversation; with ``with_pieces`` also each token's text."""
    service: Service = request.app.state.service
    body.settle(request)
    async with service.pool.use(body.model) as resident:
        llm = resident.llm
        if body.messages is not None:
            messages, _ = for_template([message.model_dump(exclude_unset=True) for message in body.messages])
            ids = await asyncio.to_thread(llm.prompt_ids, messages)
        else:
            special = body.add_special if body.add_special_tokens is None else body.add_special_tokens
            text = body.content if body.content is not None else body.prompt or ""
            ids = await asyncio.to_thread(llm.tokenize, text, add_special=special, parse_special=body.parse_special)
        tokens: list[Any] = list(ids)
        if body.with_pieces:
            tokens = [{"id": id, "piece": llm.tokenizer.token_bytes(id).decode("utf-8", "replace")} for id in ids]
        return {"tokens": tokens, "count": len(ids), "max_model_len": llm.context}


@router.get("/tokenizer_info", responses=ERRORS)
async def tokenizer_info(request: Request, model: str | None = None) -> dict[str, Any]:
    """Special tokens and the chat template, under the names of vLLM's route: evaluations ask for them."""
    service: Service = request.app.state.service
    async with service.pool.use(model) as resident:
        tokenizer, template = resident.llm.tokenizer, resident.llm.chat_template
    bos, ends = tokenizer.bos_token_id, tokenizer.eos_token_ids
    return {
        "bos_token": None if bos is None else tokenizer.token_name(bos),
        "eos_token": tokenizer.token_name(ends[0]) if ends else None,
        "pad_token": None,
        "chat_template": None if template is None else template.source,
    }


@router.post("/detokenize", responses=ERRORS)
async def detokenize(body: DetokenizeBody, request: Request) -> dict[str, Any]:
    """The text of ids."""
    service: Service = request.app.state.service
    body.settle(request)
    async with service.pool.use(body.model) as resident:
        text = resident.llm.detokenize(body.tokens)
    return {"content": text, "prompt": text}


@router.post("/apply-template", responses=ERRORS)
async def apply_template(body: TemplateBody, request: Request) -> dict[str, Any]:
    """A conversation as the model reads it."""
    service: Service = request.app.state.service
    body.settle(request)
    messages, _ = for_template([message.model_dump(exclude_unset=True) for message in body.messages])
    variables = {"add_generation_prompt": body.add_generation_prompt, **(body.chat_template_kwargs or {})}
    async with service.pool.use(body.model) as resident:
        text = await asyncio.to_thread(resident.llm.render, messages, {**variables, "tools": body.tools})
    return {"prompt": text}
