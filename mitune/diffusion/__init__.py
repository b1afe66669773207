"""The mathematics of diffusion: levels of noise, solvers, the schedule as a table. No model, no device."""
