"""The same as `keras-featx pack`."""

import sys

from keras_featx.cli import main

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
