"""How a network runs: precision, attention, cores, CUDA graphs, compilers."""
