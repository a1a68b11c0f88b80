"""Which keys does a query see?

For: what a step knows about its sequences (``AttentionInputs``), what ops may ask of a cache (``KVView``), and the views
that implement it without an engine.
In: queries, keys, values, and where they belong.
Out: attention outputs; today the ``attend`` op computes them over all keys.
May not: allocate the engine's cache, know requests or text.
"""
