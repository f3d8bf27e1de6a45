"""Which sample comes when: pure functions of (seed, step), so that resuming is arithmetic.

There is no shuffle buffer and no iterator state to save: any step's batch can be asked for.
"""

from keras_featx.data.samplers.categories import category_aware
from keras_featx.data.samplers.hard import hard_class, neighbour_table
from keras_featx.data.samplers.order import Order
from keras_featx.data.samplers.pk import pk_sampler
from keras_featx.data.samplers.plain import identity_balanced, shuffle

__all__ = [
    "Order",
    "category_aware",
    "hard_class",
    "identity_balanced",
    "neighbour_table",
    "pk_sampler",
    "shuffle",
]
