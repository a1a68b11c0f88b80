// Semantic kernels: averages of 32 neighbouring keys, kept in 8 bits beside the block that they end in.

inline void semantic_kernels(const SemanticKernelsArgs&, ThreadPool&) { abort(); }
