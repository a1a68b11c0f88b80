"""What is the network, and how does text become ids?

For: configurations, parameters, the decoder, loading, tokenizers and chat templates. In: a path; text; ids. Out: a
``Model``; ids; hidden states and logits. May not: schedule requests, sample, or keep a cache.
"""
