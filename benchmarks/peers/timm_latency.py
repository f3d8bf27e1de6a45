"""timm's LCNet with a linear neck in PyTorch as a worker: SCALE PIXELS BATCH THREADS."""

import sys

import side_by_side

side_by_side.private_stdout()

import torch  # noqa: E402
from timm_train_step import _gen_lcnet, timm  # noqa: E402
from torch.nn import functional  # noqa: E402


class Extractor(torch.nn.Module):
    """Backbone, neck, unit norm."""

    def __init__(self, scale: float):
        super().__init__()
        self.backbone = _gen_lcnet("lcnet_100", scale, pretrained=False, num_classes=0)
        self.neck = torch.nn.Linear(1280, 512)

    def forward(self, image):
        """From normalised images to unit vectors."""
        return functional.normalize(self.neck(self.backbone(image)))


def main(scale: float, pixels: int, batch: int, threads: int) -> None:
    """Trace and freeze, which folds batch normalisation, then serve."""
    torch.set_num_threads(threads)
    image = torch.randn(batch, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
    model = Extractor(scale).eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(model, image))

        def run() -> None:
            with torch.inference_mode():
                frozen(image)

        side_by_side.serve(
            lambda steps: side_by_side.time_steps(run, steps),
            torch=torch.__version__,
            timm=timm.__version__,
        )


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
