"""Reasoning-intensive text from seeds: textbook and forum paradigms, and restructured web pages, checked before it is kept.

For: pre-training text that explains, practises and debates, grown from documents that the classifier accepts.
In: seed documents, and a ``Writer``: any callable from a request to an answer (a local model, an endpoint).
Out: documents that pass every hard check, with the paradigm, the seed and the writer in their metadata; reasons for the rest.
May not: keep a text that copies its seed, or repeats an evaluation set.
"""
