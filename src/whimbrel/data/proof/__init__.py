"""Does a data set make a better model? Efficient verification, and the UltraClean loop that is built on it.

For: ranking candidate data sets by annealing an almost-trained model on each, a tenth of the cost of training from scratch.
In: token shards or text, a ``train_and_score`` callable (``anneal`` is the one file that knows the trainer).
Out: gains with standard errors, a decision per candidate, the cost beside from-scratch training; ledgers and reports.
May not: know how a model is trained, but in ``anneal``.
"""
