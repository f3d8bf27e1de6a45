"""The same as `keras-featx doctor`."""

import sys

from keras_featx.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
