"""Embeddings over HTTP, in the words of TensorFlow Serving's REST interface."""
