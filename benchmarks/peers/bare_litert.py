"""What a user of LiteRT writes in Python: Pillow decodes and resizes, the interpreter runs.

Usage: bare_litert.py MODEL.tflite IMAGE...; prints a line of JSON for each image.
"""

import json
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
(image,), (embedding,) = interpreter.get_input_details(), interpreter.get_output_details()
height, width = image["shape"][1:3].tolist()
for path in sys.argv[2:]:
    pixels = Image.open(path).convert("RGB").resize((width, height), Image.BILINEAR)
    interpreter.set_tensor(image["index"], np.asarray(pixels)[None])
    interpreter.invoke()
    found = interpreter.get_tensor(embedding["index"])[0]
    print(json.dumps({"image": path, "embedding": found.tolist()}))
