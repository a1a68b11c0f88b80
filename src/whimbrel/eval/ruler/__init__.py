"""RULER: thirteen synthetic tasks that say how much of its context a model really uses (Hsieh et al., 2024).

For: retrieval (eight needle tasks), tracing (vt), counting (cwe, fwe) and questions over documents (qa), at any length.
In: a ``Prompter``, a haystack, files of questions where there are some. Out: ``Item``s of known lengths.
May not: fetch data; say qa_1 or qa_2 to what is not SQuAD or HotpotQA.

Counts, lengths, generated tokens and scoring are those of the paper's published configuration; the wording of prompts
and needles is our own, and so is the haystack. So scores compare models, settings and lengths with each other; beside
published figures they are an indication. ``length`` is prompt and answer together, filled as far as whole units go.
"""

from whimbrel.eval.ruler.items import SUBSTITUTES, TASKS, items, ruler_report, task_names, task_of
from whimbrel.eval.ruler.materials import Materials, read_materials

__all__ = ["SUBSTITUTES", "TASKS", "Materials", "items", "read_materials", "ruler_report", "task_names", "task_of"]
