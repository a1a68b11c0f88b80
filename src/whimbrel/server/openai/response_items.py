"""Items of the Responses API: what goes in, to messages as chat templates take them; and blocks of an answer, to what comes out.

Items that belong to one turn of the assistant (thoughts, text, calls) become one message.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from whimbrel.models.tokenizer import Tokenizer
from whimbrel.server import calls
from whimbrel.server.blocks import Block
from whimbrel.server.errors import ApiError
from whimbrel.server.openai import wire
from whimbrel.server.openai.messages import for_template

Item = dict[str, Any]
Messages = list[dict[str, Any]]

_PREFIX = {"reasoning": "rs", "text": "msg", "call": "fc"}


def new_id(prefix: str) -> str:
    """As OpenAI's are: what it is, and who knows what."""
    return f"{prefix}_{uuid.uuid4().hex}"


# --- in


def as_items(given: str | Sequence[Mapping[str, Any]]) -> list[Item]:
    """A request's ``input`` as items that can be kept: with an id and a type, content in parts. Raises ``ApiError`` 400."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        raise ApiError(400, "input is empty; give a text, or at least one item", param="input")
    return [_as_item(item) for item in given]


def messages_of(items: Sequence[Item], first: int = 0) -> tuple[Messages, tuple[str, ...]]:
    """Messages, and the ids of the documents that they bring along. ``first``: number of the first item, for errors.

    Raises ``ApiError`` 400 naming the item that can't be read.
    """
    messages: Messages = []
    files: list[str] = []
    names: dict[str, str] = {}
    for index, item in enumerate(items, first):
        place = f"input[{index}]"
        match item["type"]:
            case "message":
                (message,), found = for_template([item], "input", index)
                files += found
                _add_message(messages, {"role": message["role"], "content": message["content"]})
            case "reasoning":
                _assistant(messages, new=True)["reasoning_content"] = _thoughts(item)
            case "function_call":
                id, name = _text(item, "call_id", place), _text(item, "name", place)
                names[id] = name
                _assistant(messages).setdefault("tool_calls", []).append(
                    calls.call(id, name, _text(item, "arguments", place))
                )
            case "function_call_output":
                messages.append(_result(item, index, names))
            case other:
                known = "message, reasoning, function_call, function_call_output"
                raise ApiError(
                    400,
                    f"{place}: items of type {other!r} can't be read here; there are {known}",
                    param=f"{place}.type",
                    code="unsupported",
                )
    return messages, tuple(dict.fromkeys(files))


def with_instructions(messages: Messages, instructions: str | None) -> Messages:
    """With a system message before the others, or what they begin with put behind it: templates know one."""
    if not instructions:
        return messages
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{instructions}\n\n{messages[0]['content']}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _as_item(item: Mapping[str, Any]) -> Item:
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind != "message":
        return {"id": new_id("item"), **item, "type": kind}
    content = item.get("content")
    if isinstance(content, str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        content = [{"type": part, "text": content}]
    return {"id": new_id("msg"), "status": "completed", **item, "type": "message", "content": content}


def _add_message(messages: Messages, message: dict[str, Any]) -> None:
    last = messages[-1] if messages else {}
    thought = last.get("role") == "assistant" == message["role"] and not last["content"] and "tool_calls" not in last
    if thought and "reasoning_content" in last:
        last["content"] = message["content"]
    else:
        messages.append(message)


def _assistant(messages: Messages, *, new: bool = False) -> dict[str, Any]:
    """The assistant's turn that an item belongs to."""
    if new or not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _thoughts(item: Mapping[str, Any]) -> str:
    """What another server has encrypted can't be read, and its summary isn't what was thought."""
    parts = item.get("content")
    parts = parts if isinstance(parts, Sequence) else ()
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def _result(item: Item, index: int, names: Mapping[str, str]) -> dict[str, Any]:
    place = f"input[{index}]"
    id = _text(item, "call_id", place)
    output = item.get("output")
    if not isinstance(output, str | list):
        raise ApiError(400, f"{place}.output is neither a text nor a list of parts", param=f"{place}.output")
    (message,), _ = for_template([{"role": "tool", "content": output}], "input", index)
    named = {"name": names[id]} if id in names else {}
    return {"role": "tool", "tool_call_id": id, **named, "content": message["content"]}


def _text(item: Mapping[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise ApiError(400, f"{place}.{name} is missing, or no text", param=f"{place}.{name}")
    return value


# --- out


def output_id(block: Block) -> str:
    """A new id for the item of a block."""
    return new_id(_PREFIX[block.kind])


def output_item(block: Block, id: str, status: str, tokenizer: Tokenizer) -> Item:
    """The item of a block as far as it has come."""
    match block.kind:
        case "call":
            return {
                "type": "function_call",
                "id": id,
                "call_id": block.id,
                "name": block.name,
                "arguments": block.text,
                "status": status,
            }
        case "reasoning":
            content = [part(block, tokenizer)] if block.parts else []
            return {"type": "reasoning", "id": id, "summary": [], "content": content, "status": status}
    content = [part(block, tokenizer)] if block.parts or status != "in_progress" else []
    return {"type": "message", "id": id, "role": "assistant", "content": content, "status": status}


def part(block: Block, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a message or a thought consists of."""
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.text}
    logprobs = wire.chat_logprobs(tokenizer, block.logprobs)["content"]
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}
