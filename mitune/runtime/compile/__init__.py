"""Compilers for a denoiser: inductor (with oneDNN), ONNX, TensorRT."""
