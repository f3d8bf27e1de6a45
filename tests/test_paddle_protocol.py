"""PaddleClas' own figures: what it printed, and a restatement of its rules in full precision."""

import json

import numpy as np
import pytest
from test_metrics import golden_case

import keras_featx
from keras_featx.labelled import Labelled
from keras_featx.paddle_protocol import paddle_figures

CASES = ["A", "A_nonorm", "B_same_no_uid", "C_same_uid", "D_camera", "E_nomatch", "F_ties",
         "G_negative_sims_same_uid"]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_figures_are_those_of_the_reference(data_dir, name):
    reference = json.loads((data_dir / "metrics_reference.json").read_text())[name]
    parts = golden_case(np.load(data_dir / "metrics.npz"), name)
    ours = paddle_figures(*parts, topk=(1, 5, 10))
    for key, value in reference["compat_block64"].items():
        if np.isfinite(value):
            assert ours[f"paddle/{key}"] == pytest.approx(value, abs=1e-9), key


def test_blocks_matter_where_queries_have_no_match(data_dir):
    """As measured there: 0.59722, 0.59943 and 0.60000 with blocks of 10, 64 and 1,000."""
    parts = golden_case(np.load(data_dir / "metrics.npz"), "E_nomatch")
    found = [paddle_figures(*parts, block_size=size)["paddle/recall1"] for size in (10, 64, 1000)]
    assert found == pytest.approx([0.59722, 0.59943, 0.60000], abs=5e-6)


def test_a_block_without_a_match_is_left_out():
    gallery = Labelled(np.eye(4), np.arange(4))
    query = Labelled(np.eye(4)[[0, 1, 2, 3]], np.array([0, 3, 9, 9]))
    found = paddle_figures(query, gallery, topk=(1,), block_size=2)
    assert found["paddle/recall1"] == 0.5
    assert found["paddle/precision@1"] == 0.25  # of all four


def test_the_config_asks_for_them_besides(tiny, trained):
    config = tiny("Metric.paddle=true", "Metric.Eval=[{name: Recallk, topk: [1, 3]}]",
                  f"Global.pretrained_model={trained / 'best_model'}")  # fmt: skip
    ours = keras_featx.evaluate(config)
    assert ours["paddle/recall1"] == pytest.approx(ours["recall@1"])  # every query has a match
    assert {"paddle/recall3", "paddle/mAP"} < set(ours)


def test_groups_are_refused_as_it_has_none():
    parts = [Labelled(np.eye(2), np.arange(2), groups=np.zeros(2, int)) for _ in range(2)]
    with pytest.raises(ValueError, match="^groups: expected none, as PaddleClas has none$"):
        paddle_figures(*parts)
