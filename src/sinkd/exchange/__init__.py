"""Import official data, pretrained models and TensorFlow checkpoints; export ONNX and model cards."""
