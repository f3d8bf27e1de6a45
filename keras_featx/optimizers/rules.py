"""Update rules by name: Keras', two of our own, and the regularisers of the gradient.

Each function's keyword arguments are the rule's keys in a config. The learning rate comes first,
and ``common`` is what all rules take, see :class:`keras_featx.optimizers.updates.Updates`. A rule
with ``weight_decay`` decays decoupled from the gradient: ``weight -= rate * weight_decay *
weight``. Defaults are Keras' where nothing else is said. `ScheduleFreeAdamW` is left out: on
TensorFlow, Keras 3.15 takes its gradients at the averaged weights, which is another rule.
"""

from keras_featx.optimizers import classes


def l1(*, coeff: float) -> dict[str, float]:
    """L1 regularisation: ``coeff * sign(weight)`` is added to the gradient."""
    return {"l1": _positive("coeff", coeff, zero=True)}


def l2(*, coeff: float) -> dict[str, float]:
    """L2 regularisation: ``coeff * weight`` is added to the gradient."""
    return {"l2": _positive("coeff", coeff, zero=True)}


def momentum(rate, *, momentum: float = 0.9, nesterov: bool = False, **common):
    """The reference's Momentum: the learning rate outside the velocity.

    Example:
        >>> from keras_featx.optimizers.rules import momentum
        >>> momentum(0.1, momentum=0.8).momentum
        0.8
    """
    return classes.Momentum(rate, _fraction("momentum", momentum), nesterov, **common)


def sgd(rate, *, momentum: float = 0.9, nesterov: bool = False, **common):
    """Keras' SGD: the learning rate inside the velocity."""
    return classes.SGD(rate, _fraction("momentum", momentum), nesterov, **common)


def adam(
    rate,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    amsgrad: bool = False,
    **common,
):
    """Adam (arXiv:1412.6980; ``amsgrad``: arXiv:1904.09237); ``epsilon`` as in the reference."""
    return classes.Adam(rate, **_moments(beta_1, beta_2, epsilon), amsgrad=amsgrad, **common)


def adamw(
    rate,
    *,
    weight_decay: float = 0.0,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    amsgrad: bool = False,
    **common,
):
    """Adam with decoupled decay (arXiv:1711.05101)."""
    decay = _positive("weight_decay", weight_decay, zero=True)
    moments = _moments(beta_1, beta_2, epsilon)
    return classes.AdamW(rate, weight_decay=decay, **moments, amsgrad=amsgrad, **common)


def lamb(
    rate,
    *,
    weight_decay: float = 0.0,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-6,
    **common,
):
    """LAMB (arXiv:1904.00962), with the paper's ``epsilon``; see :class:`Lamb`."""
    decay = _positive("weight_decay", weight_decay, zero=True)
    return classes.Lamb(rate, weight_decay=decay, **_moments(beta_1, beta_2, epsilon), **common)


def lion(rate, *, weight_decay: float = 0.0, beta_1: float = 0.9, beta_2: float = 0.99, **common):
    """Lion (arXiv:2302.06675). Takes a third to a tenth of AdamW's rate, and as much more decay."""
    decay = _positive("weight_decay", weight_decay, zero=True)
    if not 0 < beta_1 < 1:
        raise ValueError(f"beta_1: expected in (0, 1), got {beta_1}")
    betas = {"beta_1": beta_1, "beta_2": _fraction("beta_2", beta_2)}
    return classes.Lion(rate, weight_decay=decay, **betas, **common)


def muon(
    rate,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    adam_lr_ratio: float = 1.0,
    exclude: tuple[str, ...] = ("^head", "prox"),
    **common,
):
    """Muon for matrices, AdamW for all else (arXiv:2502.16982, whose scale of updates it takes).

    Args:
        rate: Learning rate.
        weight_decay: Of both.
        momentum: Of Muon.
        nesterov: Of Muon.
        ns_steps: Newton-Schulz iterations towards an orthogonal update.
        beta_1: Of AdamW.
        beta_2: Of AdamW.
        epsilon: Of AdamW.
        adam_lr_ratio: AdamW's learning rate by Muon's.
        exclude: Regular expressions over variables' paths: matrices that are AdamW's too. Class
            centres and proxies are, as the last layer of a classifier in the paper.
        **common: What all rules take.
    """
    return classes.Muon(
        rate,
        weight_decay=_positive("weight_decay", weight_decay, zero=True),
        momentum=_fraction("momentum", momentum),
        nesterov=nesterov,
        ns_steps=_positive("ns_steps", ns_steps),
        adam_beta_1=_fraction("beta_1", beta_1),
        adam_beta_2=_fraction("beta_2", beta_2),
        epsilon=_positive("epsilon", epsilon),
        adam_lr_ratio=_positive("adam_lr_ratio", adam_lr_ratio),
        exclude_layers=list(exclude),
        exclude_embeddings=False,  # by a name that says something else here
        **common,
    )


def rmsprop(
    rate,
    *,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    **common,
):
    """RMSprop; the learning rate is inside the velocity."""
    fractions = {"rho": _fraction("rho", rho), "momentum": _fraction("momentum", momentum)}
    epsilon = _positive("epsilon", epsilon)
    return classes.RMSprop(rate, **fractions, epsilon=epsilon, centered=centered, **common)


def nadam(rate, *, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, **common):
    """Adam with Nesterov's momentum."""
    return classes.Nadam(rate, **_moments(beta_1, beta_2, epsilon), **common)


def adamax(rate, *, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, **common):
    """Adam by the largest gradient (arXiv:1412.6980)."""
    return classes.Adamax(rate, **_moments(beta_1, beta_2, epsilon), **common)


def adagrad(rate, *, initial_accumulator_value: float = 0.1, epsilon: float = 1e-7, **common):
    """Adagrad."""
    start = _positive("initial_accumulator_value", initial_accumulator_value, zero=True)
    return classes.Adagrad(rate, start, _positive("epsilon", epsilon), **common)


def adadelta(rate, *, rho: float = 0.95, epsilon: float = 1e-7, **common):
    """Adadelta (arXiv:1212.5701), whose paper has a learning rate of 1."""
    return classes.Adadelta(rate, _fraction("rho", rho), _positive("epsilon", epsilon), **common)


def adafactor(
    rate,
    *,
    beta_2_decay: float = -0.8,
    epsilon_1: float = 1e-30,
    epsilon_2: float = 1e-3,
    clip_threshold: float = 1.0,
    **common,
):
    """Adafactor (arXiv:1804.04235): second moments by row and column.

    A weight moves by its own root mean square times the learning rate, or ``1 / sqrt(update)``
    where that is less.
    """
    return classes.Adafactor(
        rate,
        beta_2_decay=beta_2_decay,
        epsilon_1=_positive("epsilon_1", epsilon_1),
        epsilon_2=_positive("epsilon_2", epsilon_2),
        clip_threshold=_positive("clip_threshold", clip_threshold),
        **common,
    )


def ftrl(
    rate,
    *,
    learning_rate_power: float = -0.5,
    initial_accumulator_value: float = 0.1,
    l1_strength: float = 0.0,
    l2_strength: float = 0.0,
    beta: float = 0.0,
    **common,
):
    """FTRL-Proximal. It computes weights from sums of gradients: from scratch, near 0."""
    if learning_rate_power > 0:
        raise ValueError(f"learning_rate_power: expected at most 0, got {learning_rate_power}")
    return classes.Ftrl(
        rate,
        learning_rate_power=learning_rate_power,
        initial_accumulator_value=_positive(
            "initial_accumulator_value", initial_accumulator_value, zero=True
        ),
        l1_regularization_strength=_positive("l1_strength", l1_strength, zero=True),
        l2_regularization_strength=_positive("l2_strength", l2_strength, zero=True),
        beta=beta,
        **common,
    )


def _fraction(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected in [0, 1), got {value}")
    return value


def _positive(name: str, value: float, zero: bool = False) -> float:
    if value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}: expected {'at least 0' if zero else 'above 0'}, got {value}")
    return value


def _moments(beta_1: float, beta_2: float, epsilon: float) -> dict[str, float]:
    return {
        "beta_1": _fraction("beta_1", beta_1),
        "beta_2": _fraction("beta_2", beta_2),
        "epsilon": _positive("epsilon", epsilon),
    }
