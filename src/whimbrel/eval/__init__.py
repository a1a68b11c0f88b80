"""How good is it?

For: scores of a model on text and tasks.
In:  an ``Executor`` and token ids, or a task.
Out: a score, and the record of every item that made it.
May not: import an engine; whatever executes, the number is defined here.
"""
