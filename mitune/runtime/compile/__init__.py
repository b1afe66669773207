"""What compiles a UNet: inductor, ONNX, TensorRT."""
