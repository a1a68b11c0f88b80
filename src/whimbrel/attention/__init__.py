"""Which keys does a query see?

For: what a step knows about its sequences (``AttentionInputs``), what ops may ask of a cache (``KVView``), and the views
that implement it without an engine; the constants of sparse attention (``SparseConfig``).
In: queries, keys, values, and where they belong.
Out: which keys a query sees, and how many (``keys``); the ops ``select_blocks`` and ``attend`` compute with it.
May not: allocate the engine's cache, know requests or text.
"""
