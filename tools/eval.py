"""The same as `keras-featx eval`."""

import sys

from keras_featx.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
