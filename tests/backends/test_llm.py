"""The text level: streams, stop strings, chats, typed results, and what bad input gets."""

from collections.abc import Callable
from pathlib import Path

import pytest

from whimbrel.backends.executor import Executor, FinishReason, Request
from whimbrel.backends.llm import LLM
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.errors import FormatError, InvalidParameter, ModelNotFound, PromptTooLong, UsageError
from whimbrel.testing import tiny

Scripted = Callable[..., LLM]


def executor_of(llm: LLM) -> ScriptedExecutor:
    assert isinstance(llm.executor, ScriptedExecutor)
    return llm.executor


def test_an_answer(scripted: Scripted) -> None:
    llm = scripted("The shore is long.")
    completion = llm.generate("Where?", max_tokens=100)
    assert completion.text == "The shore is long."
    assert completion.finish_reason == FinishReason.STOP and completion.stop is None
    assert completion.usage.completion_tokens == len(completion.token_ids)
    assert completion.token_ids[-1] == 2
    assert isinstance(llm.executor, Executor)


def test_a_stop_string_that_spans_tokens(scripted: Scripted) -> None:
    llm = scripted("one two END three")
    stream = llm.stream("x", stop=["END", "nothing"])
    pieces = [piece.text for piece in stream]
    assert "".join(pieces) == "one two " == stream.result.text
    assert stream.result.stop == "END" and stream.result.finish_reason == FinishReason.STOP
    assert executor_of(llm).open_streams == 0
    assert llm.generate("x", stop="ENDE").text == "one two END three"
    assert llm.generate("x", stop="threes").text == "one two END three"


def test_half_characters_are_not_shown(scripted: Scripted) -> None:
    llm = scripted("añ漢🙂z")
    pieces = [piece.text for piece in llm.stream("x")]
    assert "".join(pieces) == "añ漢🙂z"
    assert all("\ufffd" not in piece for piece in pieces)
    assert llm.generate("x", max_tokens=5).text == "añ"  # the next character has three bytes, two of them are there


def test_progress_comes_before_text(scripted: Scripted) -> None:
    llm = scripted("ok")
    pieces = list(llm.stream("word " * 600, max_tokens=2))
    assert [piece.processed for piece in pieces[:2]] == [512, 1024]
    assert pieces[0].text == "" and pieces[0].prompt_tokens == len(llm.tokenize("word " * 600))


def test_leaving_early_closes(scripted: Scripted) -> None:
    llm = scripted("a long answer")
    with llm.stream("x") as stream:
        next(stream)
        next(stream)
    assert executor_of(llm).open_streams == 0
    assert stream.result.text == "a " and stream.result.finish_reason == FinishReason.ABORT
    assert list(stream) == []
    with pytest.raises(UsageError, match="isn't complete"):
        _ = llm.stream("x").result


def test_a_chat_never_tokenizes_its_own_words_again(scripted: Scripted) -> None:
    llm = scripted("The whimbrel is a wader.", "It reads the shore.")
    chat = llm.session(system="You know birds.")
    first = chat.send("What is it?", max_tokens=50)
    chat.send("What does it do?", max_tokens=50)
    one, two = (request.token_ids for request in executor_of(llm).requests)
    written = (*one, *first.token_ids[:-1])
    assert two[: len(written)] == written
    assert llm.tokenize("The whimbrel is a wader.") != list(first.token_ids[:-1]), "or the test shows nothing"
    whole = llm.render([*chat.messages[:3], {"role": "user", "content": "What does it do?"}])
    assert llm.detokenize(two) == whole
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_plain_messages_keep_the_ids_too(scripted: Scripted) -> None:
    llm = scripted("The whimbrel is a wader.", "Yes.")
    messages = [{"role": "user", "content": "What is it?"}]
    first = llm.chat(messages)
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "Sure?"}]
    llm.chat(messages)
    two = executor_of(llm).requests[1].token_ids
    assert two[: len(first.prompt_token_ids) + len(first.token_ids) - 1] == (
        *first.prompt_token_ids,
        *first.token_ids[:-1],
    )
    assert llm.detokenize(two) == llm.render(messages)


def test_a_template_that_trims_is_no_obstacle(scripted: Scripted) -> None:
    template = tiny.CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
    llm = scripted("  spaced  ", "b", template=template)
    chat = llm.session()
    first = chat.send("x")
    chat.send("y")
    ids = executor_of(llm).requests[1].token_ids
    assert ids[: len(first.prompt_token_ids) + 10] == (*first.prompt_token_ids, *first.token_ids[:-1])


def test_a_template_that_hides_answers_is_tokenized_anew(scripted: Scripted) -> None:
    llm = scripted("a", "b", template="{% for m in messages if m.role == 'user' %}{{ m.content }}|{% endfor %}")
    chat = llm.session()
    chat.send("x")
    chat.send("y")
    assert llm.detokenize(executor_of(llm).requests[1].token_ids) == "x|y|"


def test_undo_save_and_load(scripted: Scripted) -> None:
    llm = scripted("one", "two", "three")
    chat = llm.session(system="s")
    chat.send("a")
    chat.send("b")
    saved, ids = chat.save(), chat.token_ids
    assert chat.undo() == "b" and chat.undo() == "a" and chat.undo() is None
    assert len(chat.messages) == 1 and chat.token_ids == ()
    chat.load(saved)
    assert chat.token_ids == ids and chat.undo() == "b"
    with pytest.raises(FormatError, match="no saved conversation"):
        chat.load({"format": 1})
    with pytest.raises(FormatError, match="format 9"):
        chat.load({"format": 9})


def test_a_turn_that_was_refused_or_never_began_leaves_no_trace(scripted: Scripted) -> None:
    llm = scripted("a", max_context=40)
    chat = llm.session()
    with pytest.raises(PromptTooLong):
        chat.send("far too long " * 20)
    with pytest.raises(UsageError, match="empty"):
        chat.send("")
    chat.stream("x").close()
    assert chat.messages == [] and chat.token_ids == ()


def test_overflow_is_an_error_unless_cutting_was_asked_for(scripted: Scripted) -> None:
    llm = scripted("a", max_context=40)
    with pytest.raises(PromptTooLong, match="40"):
        llm.generate(list(range(5, 105)), max_tokens=10)
    completion = llm.generate([1, *range(5, 105)], max_tokens=10, overflow="truncate")
    assert completion.prompt_token_ids == (1, *range(76, 105))
    assert completion.usage.truncated_tokens == 71
    with pytest.raises(InvalidParameter, match="overflow='quietly'"):
        llm.generate("x", overflow="quietly")


def test_a_conversation_loses_its_oldest_turns_if_that_is_asked_for(scripted: Scripted) -> None:
    llm = scripted("answer", max_context=120)
    system = {"role": "system", "content": "s"}
    turns = [{"role": role, "content": f"{n} words"} for n in range(9) for role in ("user", "assistant")]
    last = {"role": "user", "content": "last"}
    with pytest.raises(PromptTooLong):
        llm.chat([system, *turns, last], max_tokens=8)
    completion = llm.chat([system, *turns, last], max_tokens=8, overflow="truncate")
    kept = llm.detokenize(completion.prompt_token_ids)
    assert kept.startswith(llm.render([system])[:10]) and "last" in kept and "0 words" not in kept and "8 words" in kept
    assert kept.split("<|im_start|>")[2].startswith("user")
    everything = len(llm.prompt_ids([system, *turns, last]))
    assert completion.usage.truncated_tokens == everything - len(completion.prompt_token_ids)
    chat = llm.session(system="s")
    for n in range(12):
        chat.send(f"{n} words", max_tokens=8, overflow="truncate")
    assert chat.messages[0]["content"] == "s" and chat.messages[1]["role"] == "user" and len(chat.messages) < 20
    with pytest.raises(PromptTooLong):
        for n in range(12):
            chat.send(f"{n} words", max_tokens=8)


def test_many_prompts_at_once(llm: LLM, scripted: Scripted) -> None:
    prompts = ["The", "whimbrel is", "a wader and"]
    together = [completion.token_ids for completion in llm.generate_many(prompts, max_tokens=6)]
    assert together == [llm.generate(prompt, max_tokens=6).token_ids for prompt in prompts]
    with pytest.raises(UsageError, match="generate_many"):
        llm.generate(prompts)  # type: ignore[arg-type]


def test_bad_input_is_explained(scripted: Scripted, checkpoint: Path, tmp_path: Path) -> None:
    llm = scripted("a")
    for empty in ("", [], ()):
        with pytest.raises(UsageError, match="empty"):
            llm.generate(empty)
    with pytest.raises(InvalidParameter, match="did you mean temperature"):
        llm.generate("x", temprature=1)
    with pytest.raises(InvalidParameter, match=r"temperature=-1 .* \[0, 100\]"):
        llm.generate("x", temperature=-1)
    with pytest.raises(UsageError, match="nothing to score"):
        llm.score("")
    with pytest.raises(ModelNotFound, match="there is no model at"):
        LLM(tmp_path / "nothing")
    with pytest.raises(InvalidParameter, match="no option 'contxt'"):
        LLM(checkpoint, contxt=3)
    llm.chat_template = None
    with pytest.raises(UsageError, match="no chat template"):
        llm.chat("hello")


def test_the_model_s_own_defaults_and_what_is_asked(checkpoint: Path) -> None:
    from whimbrel.backends.llm import _defaults

    assert _defaults({"do_sample": True, "temperature": 0.7, "top_p": 0.9}) == {"temperature": 0.7, "top_p": 0.9}
    assert _defaults({"do_sample": True}) == {"temperature": 1.0}
    assert _defaults({"do_sample": False, "temperature": 0.7}) == {}
    assert _defaults({}) == {}


def test_on_a_real_engine(llm: LLM) -> None:
    prompt = "The whimbrel is a wader. It reads"
    completion = llm.generate(prompt, max_tokens=24, temperature=1.0, seed=7, logprobs=2)
    assert completion == llm_again(llm, prompt, completion)
    assert completion.seed == 7 and len(completion.logprobs) == len(completion.token_ids)
    ids = (*completion.prompt_token_ids, *completion.token_ids)
    scores = llm.score(ids)
    written = scores.logprobs[len(completion.prompt_token_ids) - 1 :]
    assert written == pytest.approx([entry.logprob for entry in completion.logprobs], abs=1e-4)
    assert len(scores.logprobs) == len(ids) - 1 and scores.perplexity > 1


def llm_again(llm: LLM, prompt: str, expected: object) -> object:
    """The same request, with the clock and the cache's luck of the first."""
    from dataclasses import replace

    from whimbrel.backends.results import Completion

    assert isinstance(expected, Completion)
    again = llm.generate(prompt, max_tokens=24, temperature=1.0, seed=7, logprobs=2)
    assert [e.logprob for e in again.logprobs] == pytest.approx([e.logprob for e in expected.logprobs], abs=1e-4)
    return replace(again, usage=expected.usage, timings=expected.timings, logprobs=expected.logprobs)


def test_a_name_is_resolved_by_the_hook(checkpoint: Path) -> None:
    class Named(LLM):
        resolve = staticmethod(lambda name: checkpoint if name == "bird" else Path(name))

    with Named("bird", ops="reference", context=128) as llm:
        assert llm.context == 128
    with pytest.raises(UsageError, match="closed"):
        llm.generate("x")
    with pytest.raises(ModelNotFound):
        Named("fish")


def test_the_root_s_llm_knows_names(checkpoint: Path) -> None:
    import whimbrel

    assert issubclass(whimbrel.LLM, LLM)
    with pytest.raises(ModelNotFound, match="no model is called"):
        whimbrel.LLM("no-such-model-here")
    with whimbrel.LLM(str(checkpoint), ops="reference", context=128) as llm:
        assert llm.generate("x", max_tokens=1).text is not None


def test_a_scripted_answer_without_end_is_cut_at_max_tokens() -> None:
    executor = ScriptedExecutor([[7, 8, 9]])
    steps = list(executor.generate(Request(token_ids=(1,))))
    assert [step.token_ids for step in steps] == [(7,), (8,), (9,)]
    assert steps[-1].finish_reason == FinishReason.STOP
