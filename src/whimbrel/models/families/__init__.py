"""The model families, as data: which names, which keys, which defaults. No code runs in here.

To add a family: describe it in a file beside this one, list it in ``FAMILIES``, and add its tiny checkpoint to
``tests/models``. The decoder covers what the fields of ``ModelConfig`` can say.
"""

from whimbrel.models.families.family import Family
from whimbrel.models.families.llama import LLAMA
from whimbrel.models.families.minicpm import MINICPM
from whimbrel.models.families.qwen import QWEN2, QWEN3

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA, MINICPM, QWEN2, QWEN3)}

__all__ = ["FAMILIES", "LLAMA", "MINICPM", "QWEN2", "QWEN3", "Family"]
