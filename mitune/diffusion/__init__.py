"""The mathematics of diffusion, independent of any model: noise, solvers, the schedule as a
table."""
