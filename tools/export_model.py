"""The same as `keras-featx export`."""

import sys

from keras_featx.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
