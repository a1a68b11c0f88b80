"""A tool: the model asks for it, the program runs it, the model reads the result. Needs ``whimbrel[server]``.

python examples/tools.py [MODEL]
"""

import json
import sys

from whimbrel import LLM

TIDES = {"Husum": "14:20", "Esbjerg": "15:05"}
TOOL = {
    "type": "function",
    "function": {
        "name": "high_tide",
        "description": "When the tide is high today",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "enum": [*TIDES]}},
            "required": ["place"],
        },
    },
}

with LLM(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m") as llm:
    messages: list[dict[str, object]] = [{"role": "user", "content": "When is high tide in Husum?"}]
    asked = llm.chat(messages, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    call = asked.tool_calls[0]
    print(f"{call.name}({call.arguments})")
    result = TIDES[json.loads(call.arguments)["place"]]
    messages += [
        {
            "role": "assistant",
            "tool_calls": [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": result},
    ]
    answer = llm.chat(messages, tools=[TOOL], tool_choice="none", max_tokens=60)
    print(answer.text, f"({answer.usage.cached_tokens} of {answer.usage.prompt_tokens} tokens from the cache)")
