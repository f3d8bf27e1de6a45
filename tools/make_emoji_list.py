"""Write the training list of the shipped emoji weights.

    python tools/make_emoji_list.py EMOJI_FOLDER LIST

All pictures of the emoji set (its training, query and gallery lists) except those of the 40
identities that emoji-mini keeps for evaluation. Labels are the ranks of the sorted names.
"""

import sys
from pathlib import Path

from keras_featx.quickstart import EMOJI_MINI


def main(folder: str, output: str) -> None:
    """Read the lists in ``folder``, write the rows kept to ``output``."""
    unseen = {line.split("/")[1] for line in (EMOJI_MINI / "gallery_list.txt").open()}
    paths = [
        line.split()[0]
        for name in ("train_list.txt", "query_list.txt", "gallery_list.txt")
        for line in (Path(folder) / name).open()
    ]
    kept = sorted(path for path in paths if path.split("/")[2] not in unseen)
    names = sorted({path.split("/")[2] for path in kept})
    rows = [f"{path} {names.index(path.split('/')[2])}" for path in kept]
    Path(output).write_text("\n".join(rows) + "\n")
    print(f"{len(rows)} pictures of {len(names)} identities, without {len(unseen)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
