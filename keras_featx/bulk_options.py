"""The arguments of ``keras-featx embed`` and ``merge-shards``. Imports no framework."""

from keras_featx.config import parse_yaml
from keras_featx.errors import ConfigError


def add_arguments(commands) -> None:
    """Add both to the commands of the command line."""
    embed = commands.add_parser("embed", help="one worker's share of many images, into shards")
    add = embed.add_argument
    add("model", metavar="MODEL", help="an export, a .tflite or .onnx, weights, or shipped ones")
    add("source", metavar="SOURCE", help="a folder with one folder per identity, a .csv or "
        ".parquet table, or such as '{name: ImageNetDataset, ...}'")  # fmt: skip
    add("--output", required=True, metavar="FOLDER", help="the same for all workers")
    add("--image-root", default="", metavar="FOLDER", help="that paths of a table are relative to")
    add("--worker", type=int, default=0, metavar="I", help="which this is, from 0")
    add("--workers", type=int, default=1, metavar="N", help="how many there are")
    add("--shard-size", type=int, default=10_000, metavar="N", help="images of a shard "
        "(default: %(default)s)")  # fmt: skip
    add("--format", choices=["parquet", "npy"], default="parquet")
    add("--dtype", choices=["float32", "float16"], default="float32")
    add("--batch-size", type=int, default=64, metavar="N")
    embed.set_defaults(command=_embed)
    merge = commands.add_parser("merge-shards", help="one file of what all workers embedded")
    merge.add_argument("folder", metavar="FOLDER")
    merge.set_defaults(command=_merge)


def _embed(options) -> dict:
    source = options.source
    if source.lstrip().startswith("{"):
        source = parse_yaml(source, "SOURCE")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size: expected at least 1, got {options.batch_size}")
    from keras_featx.bulk import embed_shards

    return embed_shards(
        options.model, source, options.output, image_root=options.image_root,
        worker=(options.worker, options.workers), shard_size=options.shard_size,
        format=options.format, dtype=options.dtype, batch_size=options.batch_size,
    )  # fmt: skip


def _merge(options) -> dict:
    from keras_featx.bulk import merge_shards

    return merge_shards(options.folder)
