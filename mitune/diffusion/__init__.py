"""The mathematics of diffusion: noise, solvers, the schedule as a table. It knows no model."""
