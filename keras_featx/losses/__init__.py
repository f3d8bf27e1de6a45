"""Losses, one idea a file.

Importing this registers the layers, so that a saved model that holds one loads without
`custom_objects`.
"""

from keras_featx.losses.angular import TripletAngularMarginLoss, triplet_angular_margin_loss
from keras_featx.losses.center import CenterLoss, center_loss
from keras_featx.losses.circle import (
    CircleLoss,
    PairwiseCosface,
    circle_loss,
    pairwise_cosface_loss,
)
from keras_featx.losses.contrastive import ContrastiveLoss, contrastive_loss
from keras_featx.losses.cross_entropy import CELoss
from keras_featx.losses.distillation import (
    DistillationLoss,
    EmbeddingDistillation,
    KLDistillation,
    embedding_distillation_loss,
    kl_distillation_loss,
    mutual_learning_loss,
)
from keras_featx.losses.eml import EmlLoss, eml_loss
from keras_featx.losses.hardest import MSMLoss, margin_sample_mining_loss
from keras_featx.losses.layers import EmbeddingLoss
from keras_featx.losses.lifted import LiftedStructLoss, lifted_structure_loss
from keras_featx.losses.multi_similarity import MultiSimilarityLoss, multi_similarity_loss
from keras_featx.losses.npairs import NpairsLoss, n_pairs_loss
from keras_featx.losses.proxies import (
    ProxyAnchorLoss,
    ProxyNCALoss,
    proxy_anchor_loss,
    proxy_nca_loss,
)
from keras_featx.losses.relations import (
    RelationDistillation,
    relation_angle_loss,
    relation_distance_loss,
)
from keras_featx.losses.smooth_ap import SmoothAPLoss, smooth_ap_loss
from keras_featx.losses.soft_nearest import SoftNearestNeighborLoss, soft_nearest_neighbor_loss
from keras_featx.losses.supcon import SupConLoss, supcon_loss
from keras_featx.losses.triplet import TriHardLoss, TripletLoss, TripletLossV2, triplet_loss

__all__ = [
    "CELoss",
    "CenterLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "DistillationLoss",
    "EmbeddingDistillation",
    "EmbeddingLoss",
    "EmlLoss",
    "KLDistillation",
    "LiftedStructLoss",
    "MSMLoss",
    "MultiSimilarityLoss",
    "NpairsLoss",
    "PairwiseCosface",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RelationDistillation",
    "SmoothAPLoss",
    "SoftNearestNeighborLoss",
    "SupConLoss",
    "TriHardLoss",
    "TripletAngularMarginLoss",
    "TripletLoss",
    "TripletLossV2",
    "center_loss",
    "circle_loss",
    "contrastive_loss",
    "embedding_distillation_loss",
    "eml_loss",
    "kl_distillation_loss",
    "lifted_structure_loss",
    "margin_sample_mining_loss",
    "multi_similarity_loss",
    "mutual_learning_loss",
    "n_pairs_loss",
    "pairwise_cosface_loss",
    "proxy_anchor_loss",
    "proxy_nca_loss",
    "relation_angle_loss",
    "relation_distance_loss",
    "smooth_ap_loss",
    "soft_nearest_neighbor_loss",
    "supcon_loss",
    "triplet_angular_margin_loss",
    "triplet_loss",
]
