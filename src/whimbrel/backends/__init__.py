"""backends: who executes?

For: one interface, token ids in and token ids out (``Executor``), whatever computes; and the text level written once
above it (``LLM``, ``Chat``): tokenizer, template, stop strings, streaming, typed results.
In: a local path, options; then ``Request``s or text.
Out: ``Step``s, or ``Piece``s and ``Completion``s.
May not: choose models by name or download them (``zoo`` is above; ``whimbrel.LLM`` puts both together).
"""
