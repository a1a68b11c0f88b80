"""What will a bigger one do? Train small, predict large.

For: hyperparameters and scores of a model that is too dear to try, from many that are cheap.
In: token shards and a way to train (``Trial -> Outcome``); losses and scores of a ladder of models; question sets.
Out: a ledger of runs, fitted laws with their error bands, pictures, conditional-loss items.
May not: own a trainer (``train`` has it), or report a prediction that its points can't carry.
"""
