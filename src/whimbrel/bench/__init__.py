"""How fast is it, measured how?

For: speed of the engine, beside llama.cpp on the same weights, prompts and threads.
In:  a model file, context lengths, a number of threads.
Out: one object of plain values: a number, and beside it the machine, the commit and the command it came from.
May not: define correctness (tests do; a benchmark only reports whether both sides agree).

``compare.run`` is the whole of ``whimbrel bench``; ``record`` says where a number comes from; ``bandwidth`` measures
the roof; ``depths`` computes the peer's long prompts; ``engine`` and ``llama_cpp`` are the two sides, each run by ``worker`` in a process of its own.
Programs beside it: ``server`` and ``soak`` (with ``serving``), ``sparse_attention`` (both stages of a decoded token),
``gpu_attention``.
"""
