"""TensorBoard, Weights & Biases and MLflow: switched on by one word, written by a hook."""
