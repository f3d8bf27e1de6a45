"""Lists of images, the order they come in, and the tf.data pipelines."""
