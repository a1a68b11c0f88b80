"""Corpora -> documents, one file after the other, each fault named with its file and offset.

For: JSONL, Parquet, text folders, WARC and WET, compressed or not, local or behind any fsspec URL.
In: paths and URLs.
Out: documents in the order of the file; faults (``Fault``) for what can't be read.
May not: judge a text, or hold more than a block of a file in memory.
"""
