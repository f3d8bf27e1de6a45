"""``report.html``: how well a network retrieves, as one page that needs nothing but itself."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_featx.config import dump_config
from keras_featx.data import outputs
from keras_featx.data.samples import Samples
from keras_featx.evaluation import Evaluation, figure_to_monitor, figures
from keras_featx.report import run_facts, set_charts, set_page
from keras_featx.report.charts import range_bar
from keras_featx.report.page import document, text
from keras_featx.report.views import make_view
from keras_featx.report.wording import figure, interval, metric_words, number
from keras_featx.sections import Config

log = logging.getLogger(__name__)

_STYLE = Path(__file__).parent.parent / "assets" / "report.css"


def write_report(
    path: str | os.PathLike,
    *,
    config: Config,
    sets: Mapping[str, Evaluation],
    history: Sequence[Mapping[str, Any]] = (),
    train: Samples | None = None,
    weights: int | None = None,
    title: str | None = None,
) -> None:
    """Write the report of a run, or of an evaluation.

    Args:
        path: The file.
        config: Of the run.
        sets: What was evaluated, by name; a single one may be called ``""``.
        history: The rows of ``metrics.csv``; without them, weights were evaluated and not trained.
        train: The images that were trained on, where they are known.
        weights: Numbers of the extractor.
        title: Of the page; by default the name of the run folder.

    Raises:
        OSError: Where the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> import keras_featx
        >>> from keras_featx.evaluation import measure_sets
        >>> from keras_featx.evaluation_data import load_eval_sets
        >>> from keras_featx.quickstart import quickstart_config
        >>> from keras_featx.report.run_page import write_report
        >>> config = quickstart_config()
        >>> model = keras_featx.build_model(config)
        >>> sets = measure_sets(config, model, load_eval_sets(config))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = os.path.join(folder, "report.html")
        ...     write_report(file, config=config, sets=sets)
        ...     os.path.getsize(file) < 2e6
        True
    """
    title = title or Path(config.Global.output_dir).name
    size = next(iter(sets.values())).query_embeddings.shape[1]
    curves = {"Learning curves": run_facts.learning_curves(history, sets)} if history else {}
    shown = [_sections(curves)]
    chips = list(curves)
    for i, (name, found) in enumerate(sets.items()):
        parts = _of_set(config, found, train)
        if name:
            shown.append(f'<h2 class="set" id="{_id(name)}">{text(name)}</h2>')
        shown.append(_sections(parts, f"{i}-" if name else ""))
        chips += [name] if name else parts
    last = {"Network and run": run_facts.run_facts(config, history, weights)}
    source = f"{run_facts.network(config, size)}. {_state(config, history, sets)}"
    body = [
        '<header><p class="kicker">keras_featx retrieval report</p>',
        f'<h1>{text(title)}</h1><p class="soft">{text(source)}</p></header>',
        f'<div class="heads">{"".join(_head(*item, train, config) for item in sets.items())}</div>',
        f"<nav>{''.join(map(_chip, [*chips, *last]))}</nav>",
        *shown,
        _sections(last),
        "<section><details><summary>The whole config</summary>"
        f"<pre>{_lines(dump_config(config))}</pre></details></section>",
    ]
    page = document(f"{title}: retrieval report", _STYLE.read_text(), body)
    outputs.write_bytes(path, page.encode())


def report_run(
    run: Path,
    config: Config,
    sets: Mapping[str, Evaluation],
    history: Sequence[Mapping[str, Any]],
    train: Samples,
    weights: int,
) -> None:
    """Write the report of a training that is done: what goes wrong is logged, nothing is lost."""
    path = run / "report.html"
    try:
        write_report(path, config=config, sets=sets, history=history, train=train, weights=weights)
    except Exception as error:
        log.exception("%s could not be written; all else of the run is: %s", path, error)


def _of_set(config: Config, found: Evaluation, train: Samples | None) -> dict[str, str]:
    """Titles and contents of a set's sections."""
    view = make_view(config.Metric, found)
    right, wrong = set_page.panels(view)
    return {
        "All figures": set_page.figures(view),
        "Right and sure": right,
        "Wrong and sure": wrong,
        "Taken for another": set_page.confused(view),
        "Similarities and thresholds": set_charts.similarities(view),
        "Map of embeddings": set_charts.embedding_map(view),
        "Weakest identities": set_page.weakest(view),
        "Data": run_facts.data_facts(train, found),
    }


def _sections(parts: Mapping[str, str], prefix: str = "") -> str:
    return "\n".join(
        f'<section id="{prefix}{_id(name)}"><h2>{text(name)}</h2>{inside}</section>'
        for name, inside in parts.items()
    )


def _chip(name: str) -> str:
    return f'<a href="#{_id(name)}">{text(name)}</a>'


def _id(name: str) -> str:
    return text("-".join(name.lower().split()))


def _lines(config: str) -> str:
    return "\n".join(map(text, config.splitlines()))


def _state(config: Config, history, sets: Mapping[str, Evaluation]) -> str:
    """Which weights the page is about."""
    if not history:
        return f"Weights: {config.Global.pretrained_model or 'as given'}."
    key = figure_to_monitor(config.Metric, sets, config.Metric.monitor)
    shown = figures({name: found.result for name, found in sets.items()})[key]
    last = f"Shown is epoch {history[-1]['epoch']}, the last."
    measured = [row for row in history[:-1] if isinstance(row.get(key), int | float)]
    best = max(measured, key=lambda row: row[key], default=None)
    if best is None or best[key] <= shown:
        return last
    name, _, metric = key.rpartition("/")
    title = metric_words(metric)[0] + (f" of {name}" if name else "")
    return (
        f"{last} Epoch {best['epoch']} had {title} {figure(best[key])} and is kept in best_model; "
        "as these queries chose it, that figure flatters."
    )


def _head(name: str, found: Evaluation, train: Samples | None, config: Config) -> str:
    """The first figure of a set, large, and the others beside it."""
    result = found.result
    first, *others = result.per_query
    title, meaning = metric_words(first)
    low, high = result.intervals.get(first, (None, None))
    bounds = "no interval: one identity" if low is None else f"95 % interval {interval(low, high)}"
    unseen, known = run_facts.seen_in_training(train, found)
    began = train is not None and (config.Global.pretrained_model or config.Global.checkpoint)
    if began:
        known += f" What {began}, with which training began, had seen is not known here."
    identities = number(len(set(result.labels.tolist())), "identity", "identities")
    bar = range_bar(result[first], low, high) if 0 <= result[first] <= 1 else ""
    rest = "".join(
        f"<li><b>{figure(result[other])}</b><span>{text(metric_words(other)[0])}</span></li>"
        for other in others[:4]
    )
    return (
        f"<section><div>{f'<h2>{text(name)}</h2>' if name else ''}"
        f'<p class="kicker">{text(title)}{": " if meaning else ""}{text(meaning)}</p>'
        f'<p class="big">{figure(result[first])}</p>{bar}<p>{bounds}, '
        f"{number(len(result.scored), 'query', 'queries')} of {identities}"
        f"{' never seen in training' if unseen and not began else ''}, "
        f"{number(result.gallery, 'gallery image')}</p></div>"
        f'<div><ul class="rest">{rest}</ul><p class="soft">{text(known)}</p></div></section>'
    )
