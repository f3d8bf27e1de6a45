"""The same as `keras-featx train`."""

import sys

from keras_featx.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
