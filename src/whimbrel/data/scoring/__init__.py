"""How good is a document's text? The released classifier's preprocessing, BPE pieces and a fastText model as one table.

For: scores of whole corpora on CPUs, equal to the official fastText program's within 1e-5.
In: texts, a ``tokenizer.json``, a fastText ``.bin``.
Out: the probability of the positive label, per text; the n-grams that decided.
May not: read or write corpora, or know of pipelines.
"""
