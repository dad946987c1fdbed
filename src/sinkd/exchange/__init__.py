"""What comes in and goes out: official data, pretrained models, TensorFlow checkpoints; ONNX and model cards."""
