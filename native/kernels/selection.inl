// Stage 1 of InfLLM v2: scores of semantic kernels, pooled to blocks, and the best blocks of each row.

inline void select_blocks(const SelectArgs&, ThreadPool&) { abort(); }
