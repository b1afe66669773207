"""How a network runs: precision, attention, worker threads, CUDA graphs, compilers."""
