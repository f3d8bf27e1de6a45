"""The training step of timm's LCNet in PyTorch as a worker: SCALE PIXELS BATCH THREADS."""

import math
import sys

import side_by_side

side_by_side.private_stdout()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

# timm imports torchvision, which asks for its compiled operators at import. Where its build does
# not fit torch's they are missing; no operator is used here, so their names are enough.
OPERATORS = ("nms", "qnms", "deform_conv2d", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
try:
    import timm  # noqa: E402
except (RuntimeError, ImportError):
    for name in list(sys.modules):
        if name.split(".")[0] in ("timm", "torchvision"):
            del sys.modules[name]
    for operator in OPERATORS:
        for name in (operator, f"_{operator}_backward"):
            torch.library.define(f"torchvision::{name}", "(Tensor a) -> Tensor")
    import timm  # noqa: E402
from timm.models.mobilenetv3 import _gen_lcnet  # noqa: E402

MARGIN, SCALE = 0.2, 30.0


class Classifier(nn.Module):
    """Backbone, linear neck, ArcMargin head; gives the loss."""

    def __init__(self, scale: float):
        super().__init__()
        self.backbone = _gen_lcnet("lcnet_100", scale, pretrained=False, num_classes=0)
        self.neck = nn.Linear(1280, 512)
        self.centres = nn.Parameter(torch.randn(1000, 512) * 0.036)

    def forward(self, image, label):
        """The mean cross-entropy of the batch."""
        embedding = functional.normalize(self.neck(self.backbone(image)))
        cosine = functional.linear(embedding, functional.normalize(self.centres))
        sine = torch.sqrt(torch.clamp(1 - cosine * cosine, min=1e-6))
        moved = cosine * math.cos(MARGIN) - sine * math.sin(MARGIN)
        own = functional.one_hot(label, 1000).bool() & (cosine > -math.cos(MARGIN))
        return functional.cross_entropy(SCALE * torch.where(own, moved, cosine), label)


def main(scale: float, pixels: int, batch: int, threads: int) -> None:
    """Build, then serve."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Classifier(scale).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-5)
    image = torch.randn(batch, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, 1000, (batch,))

    def train() -> None:
        loss = model(image, label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the step to end

    side_by_side.serve(
        lambda steps: side_by_side.time_steps(train, steps),
        torch=torch.__version__,
        timm=timm.__version__,
    )


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
