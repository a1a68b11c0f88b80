"""Which text is worth training on? UltraClean: filters, a fastText classifier, and the proof by annealing.

For: corpora of crawled text, on one machine or many; the loop seeds -> verification -> classifier -> filter.
In: JSONL, Parquet, text and WARC files, local or behind any fsspec URL; trained fastText models; a ``train_and_score`` callable.
Out: kept documents and token shards, a reason for every rejected document, scores, ledgers and reports.
May not: train a network (it is handed a callable), or be imported by anything that inference needs. Extra ``[data]``.

``filter(document) -> Keep | Drop(reason)`` is the one interface of all filters.
"""
