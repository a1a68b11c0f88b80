"""How is it stored? Files to named tensors and packed weights, and back.

For: reading GGUF and safetensors files, packing weight matrices for the kernels. In: files. Out: numpy arrays and
``PackedTensor``. May not: know any model (no tensor names, no configuration).
"""
