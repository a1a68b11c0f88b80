"""Chat templates: the text, the extras that templates rely on, and the sandbox."""

import pytest

from whimbrel.errors import FormatError, UsageError
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.families.family import CHATML
from whimbrel.testing import tiny

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>&</b>"}]


def test_chatml() -> None:
    template = ChatTemplate(CHATML)
    turns = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b>&</b><|im_end|>\n"
    assert template.render(MESSAGES) == turns + "<|im_start|>assistant\n"
    assert template.render(MESSAGES, add_generation_prompt=False) == turns
    assert ChatTemplate(tiny.CHAT_TEMPLATE).render(MESSAGES) == turns + "<|im_start|>assistant\n"


@pytest.mark.parametrize("source, text", [
    ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
    ("{{ tools | tojson }}", '[{"name": "<é&>"}]'),
    ("{{ {'b': 1, 'a': [1, 2]} | tojson(indent=2, sort_keys=true) }}", '{\n  "a": [\n    1,\n    2\n  ],\n  "b": 1\n}'),
    ("{{ strftime_now('%Y') | length }}", "4"),
    ("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "system"),
    ("{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m['role'] }}{% endfor %}", "user"),
    ("a{% generation %}{{ messages[0].content }}{% endgeneration %}b", "aBe brief.b"),
    ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
    ("{{ documents is none }}{{ enable_thinking }}", "TrueFalse"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
])  # fmt: skip
def test_what_templates_rely_on(source: str, text: str) -> None:
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    assert template.render(MESSAGES, tools=[{"name": "<é&>"}], enable_thinking=False) == text


def test_same_text_as_transformers() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    source = "{% for m in messages %}\n  {{ m.role }}: {{ m | tojson }}\n{% endfor %}{{ tools }}"
    expected, _ = utils.render_jinja_template([MESSAGES], chat_template=source, add_generation_prompt=False)
    assert ChatTemplate(source).render(MESSAGES, add_generation_prompt=False) == expected[0]


def test_templates_may_refuse() -> None:
    with pytest.raises(UsageError, match="only one turn"):
        ChatTemplate("{{ raise_exception('only one turn') }}").render(MESSAGES)
    with pytest.raises(UsageError, match="refuses"):
        ChatTemplate("{{ messages[0].content + 1 }}").render(MESSAGES)


def test_broken_templates() -> None:
    with pytest.raises(FormatError, match="does not compile"):
        ChatTemplate("{% for %}").render(MESSAGES)


@pytest.mark.parametrize("attack", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ self.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
])  # fmt: skip
def test_templates_are_in_a_sandbox(attack: str) -> None:
    messages = [dict(message) for message in MESSAGES]
    with pytest.raises((UsageError, FormatError)):
        ChatTemplate(attack).render(messages)
    assert messages == MESSAGES
