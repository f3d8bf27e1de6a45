"""The same as `keras-featx predict`."""

import sys

from keras_featx.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
