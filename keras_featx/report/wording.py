"""Numbers and metrics in words, for people."""

# Of the part before ``@``: what the figure is called, and what it says.
_METRICS = {
    "recall": ("Recall", "queries with an image of their identity among the first {k}"),
    "precision": ("Precision", "of the first {k} images, those of the query's identity"),
    "map": ("mAP", "average precision: how far ahead all images of the identity stand"),
    "r_precision": ("R-precision", "of the first R images, those of the identity, which has R"),
    "mrr": ("MRR", "1 / rank of the first image of the identity"),
    "minp": ("mINP", "R / rank of the last of the R images of the identity"),
    "ndcg": ("NDCG", "gain of the first {k} images, earlier ones counting more"),
    "roc_auc": ("ROC AUC", "how often a pair of one identity is more similar than one of two"),
}


def metric_words(name: str) -> tuple[str, str]:
    """What a figure is called, and what it says; of one that is not known, its name alone.

    Example:
        >>> from keras_featx.report.wording import metric_words
        >>> metric_words("recall@1")
        ('Recall@1', 'queries whose nearest image is of their identity')
        >>> metric_words("tar@far=0.01")[0]
        'TAR at FAR 1 %'
    """
    stem, at, k = name.partition("@")
    if stem == "tar" and k.startswith("far="):
        rate = f"{100 * float(k.removeprefix('far=')):g} %"
        return f"TAR at FAR {rate}", f"pairs of one identity accepted where {rate} of others are"
    if name == "recall@1":
        return "Recall@1", "queries whose nearest image is of their identity"
    if name == "map@r":
        return "mAP@R", "average precision among the first R images, as many as the identity has"
    if stem not in _METRICS:
        return name, ""
    title, meaning = _METRICS[stem]
    if stem == "map" and k:
        meaning = "average precision among the first {k} images"
    return f"{title}{at}{k}", meaning.format(k=k)


def figure(value: float) -> str:
    """A fraction as a percentage with one decimal; any other number with four digits.

    Example:
        >>> from keras_featx.report.wording import figure
        >>> figure(0.534), figure(1.0), figure(12.34567)
        ('53.4 %', '100 %', '12.35')
    """
    if not 0 <= value <= 1:
        return f"{value:.4g}"
    return f"{_tenths(value)} %"


def interval(low: float, high: float) -> str:
    """Two bounds.

    Example:
        >>> from keras_featx.report.wording import interval
        >>> interval(0.47, 0.593)
        '47.0 to 59.3 %'
    """
    if not 0 <= low <= high <= 1:
        return f"{low:.4g} to {high:.4g}"
    return f"{_tenths(low)} to {_tenths(high)} %"


def _tenths(value: float) -> str:
    return "100" if value == 1 else f"{100 * value:.1f}"


def number(count: int, one: str = "", many: str = "") -> str:
    """A count, with what is counted.

    Example:
        >>> from keras_featx.report.wording import number
        >>> number(1197, "query", "queries"), number(1, "image"), number(3, "image")
        ('1,197 queries', '1 image', '3 images')
    """
    name = one if count == 1 else many or (one and f"{one}s")
    return f"{count:,} {name}".rstrip()
