"""What comes in and goes out: official data, pretrained and published models, TensorFlow checkpoints, ONNX."""
