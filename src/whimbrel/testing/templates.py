"""Chat templates that do with tools and thinking what those of known families do, in as few lines as that takes."""

CHATML = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
START = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
FUNCTION = "{% if c.function %}{% set c = c.function %}{% endif %}"

HERMES = (
    "{% if tools %}{{ '<|im_start|>system\\nTools:' }}{% for t in tools %}{{ '\\n' + (t | tojson) }}{% endfor %}"
    "{{ '\\nA call: <tool_call>\\n{...}\\n</tool_call><|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{% elif m.tool_calls %}{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\\n' + m.content }}{% endif %}"
    f"{{% for c in m.tool_calls %}}{FUNCTION}"
    "{{ '\\n<tool_call>\\n{\"name\": \"' + c.name + '\", \"arguments\": ' + (c.arguments | tojson) + '}\\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}"
    f"{{% else %}}{CHATML}{{% endif %}}{{% endfor %}}{START}"
)
"""Qwen2.5 and Hermes: arguments as a mapping"""

HERMES_STRICT = (
    "{{ tools | tojson if tools }}{% for m in messages %}{% if m.role == 'tool' %}{% if not m.name is defined %}"
    "{{ raise_exception('a result needs a name') }}{% endif %}{{ '<|im_start|>tool\\n' + m.name + ': ' + m.content }}"
    "{% elif m.role == 'assistant' and m.tool_calls is defined %}{{ '<|im_start|>assistant' }}"
    f"{{% for c in m.tool_calls %}}{FUNCTION}{{{{ '\\n<tool_call>\\n' }}}}"
    "{{ '{ \"arguments\": ' + (c.arguments | tojson) + ', \"name\": \"' + c.name + '\"}\\n</tool_call> ' }}"
    "{% endfor %}"
    f"{{% else %}}{CHATML}{{% endif %}}{{% endfor %}}{START}"
)
"""Hermes 2 Pro: results must have names, no message an empty list of calls"""

QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{% elif m.role == 'assistant' %}{% set content = m.content %}{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if loop.index0 > ns.last and thought %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{{ content }}"
    f"{{% for c in m.tool_calls or [] %}}{FUNCTION}{{% if content or not loop.first %}}{{{{ '\\n' }}}}{{% endif %}}"
    '{{ \'<tool_call>\\n{"name": "\' + c.name + \'", "arguments": \' }}'
    "{% if c.arguments is string %}{{ c.arguments }}{% else %}{{ c.arguments | tojson }}{% endif %}{{ '}\\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}"
    f"{{% else %}}{CHATML}{{% endif %}}{{% endfor %}}{START}"
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
"""Qwen3: thoughts of the turn that goes on are kept, older ones are not"""

DEEPSEEK = (
    "{% for m in messages %}{% set content = m.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
"""DeepSeek-R1: the prompt opens the tag"""

TEXT_ARGUMENTS = HERMES.replace("(c.arguments | tojson)", "c.arguments")
"""Arguments as JSON text"""

MINICPM = (
    "{% if tools %}{{ '<|im_start|>system\\n# Functions' }}{% for t in tools %}{{ '\\n' + t.function.name }}{% endfor %}"
    "{{ '\\n<|thought_start|>\\n{thought}\\n<|thought_end|>\\n<|tool_call_start|>\\n```python\\nf(name=value)\\n```\\n' }}"
    "{{ '<|tool_call_end|><|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}{{ '<|im_start|>assistant\\n' }}"
    "{{ '<|thought_start|>\\n' + m.thought + '\\n<|thought_end|>\\n' if m.thought }}"
    "{{ '<|tool_call_start|>\\n```python\\n' }}"
    f"{{% for c in m.tool_calls %}}{FUNCTION}{{{{ c.name + '(' }}}}{{% for name, value in c.arguments | items %}}"
    "{{ name + '=' + (value | tojson) }}{{ ',' if not loop.last }}{% endfor %}{{ ')\\n' }}{% endfor %}"
    "{{ '```\\n<|tool_call_end|>\\n' + m.content + '<|im_end|>\\n' }}"
    f"{{% else %}}{CHATML}{{% endif %}}{{% endfor %}}{START}"
)
"""MiniCPM3 and MiniCPM4"""

LLAMA = (
    "{% for m in messages %}{% if 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}{% set c = m.tool_calls[0].function %}"
    "{{ '<|im_start|>assistant\\n{\"name\": \"' + c.name + '\", ' }}{{ '\"parameters\": ' }}"
    "{{ (c.arguments | tojson) + '}<|im_end|>\\n' }}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>ipython\\n' + (m.content | tojson) + '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' }}{% if tools and loop.first %}{{ (tools | tojson) + '\\n' }}{% endif %}"
    "{{ m.content | trim + '<|im_end|>\\n' }}{% endif %}{% endfor %}" + START
)
"""Llama 3.1 to 3.3"""

MISTRAL = (
    "{{ tools or '' }}{% for m in messages %}{% if m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('an id has 9 characters') }}{% endif %}"
    "{{ (c.function | tojson)[:-1] + ', \"id\": \"' + c.id + '\"}' }}{{ ', ' if not loop.last }}{% endfor %}{{ ']' }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.tool_call_id + ' ' + m.content + '[/TOOL_RESULTS]' }}"
    "{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% endfor %}"
)
"""Mistral's of 2024"""

SMOLLM = (
    "{% if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + ' <tool_call>[{...}]</tool_call><|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m.tool_calls %}{{ '<|im_start|>assistant\\n' + m.content + '<tool_call>[' }}"
    f'{{% for c in m.tool_calls %}}{FUNCTION}{{{{ \'{{"name": "\' + c.name + \'", "arguments": \' }}}}'
    "{{ (c.arguments | tojson) + '}' }}{{ ', ' if not loop.last }}{% endfor %}{{ ']</tool_call><|im_end|>\\n' }}"
    f"{{% else %}}{CHATML}{{% endif %}}{{% endfor %}}{START}"
)
"""SmolLM2: a list in one block"""

XML = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>\\n<function=' + c.function.name + '>\\n</function>\\n</tool_call>' }}{% endfor %}"
    f"{CHATML}{{% endfor %}}{START}{{{{ tools or '' }}}}"
)
"""A notation that isn't known here (Qwen3-Coder's)"""

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
    f"{CHATML}{{% endfor %}}{START}"
)
"""Gemma's: only user and assistant"""
