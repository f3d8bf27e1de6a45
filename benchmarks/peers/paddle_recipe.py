"""PaddleClas trains on batches made by ours, and embeds: FOLDER SEED CLASSES STEPS_PER_EPOCH.

FOLDER holds ``images.npy`` (steps, batch, height, width, 3), ``labels.npy`` (steps, batch),
``query.npy``, ``gallery.npy`` and ``rates.npy`` (steps,); embeddings are written beside them.
"""

import os
import sys
import sysconfig
import tarfile  # noqa: F401 (paddle 2.6 can die at import unless these two came first)
import zlib  # noqa: F401

sys.path.insert(0, os.path.join(sysconfig.get_path("purelib"), "paddleclas"))

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from ppcls.arch import RecModel  # noqa: E402

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def pixels(images: np.ndarray) -> paddle.Tensor:
    """From uint8 NHWC to normalised NCHW."""
    x = (images / 255.0 - MEAN) / STD
    return paddle.to_tensor(x.transpose(0, 3, 1, 2).astype("float32"))


def main(folder: str, seed: int, classes: int) -> None:
    """Train and embed."""
    paddle.set_device("cpu")
    paddle.seed(seed)
    paddle.set_flags({"FLAGS_use_mkldnn": True})
    read = {n: np.load(f"{folder}/{n}.npy", mmap_mode="r") for n in ("images", "labels", "rates")}
    backbone = {
        "name": "PPLCNet_x0_5",
        "pretrained": False,
        "class_expand": 512,
        "dropout_prob": 0.0,
    }
    model = RecModel(
        Backbone=backbone,
        BackboneStopLayer={"name": "flatten"},
        Neck={"name": "FC", "embedding_size": 512, "class_num": 128},
        Head={
            "name": "ArcMargin",
            "embedding_size": 128,
            "class_num": classes,
            "margin": 0.1,
            "scale": 16,
        },
    )
    # The reference has no neck of both; without batch normalisation so short a run learns little.
    model.neck = paddle.nn.Sequential(model.neck, paddle.nn.BatchNorm1D(128))
    table = [*read["rates"].tolist(), 0.0]  # it looks one step ahead
    rate = paddle.optimizer.lr.LambdaDecay(1.0, lambda step: table[step])
    optimizer = paddle.optimizer.AdamW(rate, parameters=model.parameters(), weight_decay=0.05)
    model.train()
    for images, labels in zip(read["images"], read["labels"], strict=True):
        label = paddle.to_tensor(labels.astype("int64")[:, None])
        logits = model(pixels(images), label)["logits"]
        loss = paddle.nn.functional.cross_entropy(logits, label).mean()  # as its CELoss
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    model.eval()
    for part in ("query", "gallery"):
        images = np.load(f"{folder}/{part}.npy")
        found = [
            model(pixels(images[i : i + 256]))["features"].numpy()
            for i in range(0, len(images), 256)
        ]
        np.save(f"{folder}/{part}_embedding.npy", np.concatenate(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
