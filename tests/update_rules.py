"""The update rules of the papers in float64 NumPy: one weight, one generator each.

``rule(weight, rate, gradient, state, t, **keys)`` returns the weight after update ``t`` (from 1);
``state`` is a dict the rule may fill.
"""

import numpy as np


def momentum(w, rate, g, s, t, momentum=0.9, nesterov=False):
    s["v"] = momentum * s.get("v", 0) + g
    return w - rate * (g + momentum * s["v"] if nesterov else s["v"])


def sgd(w, rate, g, s, t, momentum=0.9, nesterov=False):
    s["v"] = momentum * s.get("v", 0) - rate * g
    return w + (momentum * s["v"] - rate * g if nesterov else s["v"])


def _moments(g, s, t, beta_1, beta_2):
    """Both moments, free of the bias of their beginning at 0."""
    s["m"] = beta_1 * s.get("m", 0) + (1 - beta_1) * g
    s["v"] = beta_2 * s.get("v", 0) + (1 - beta_2) * g**2
    return s["m"] / (1 - beta_1**t), s["v"] / (1 - beta_2**t)


def adam(w, rate, g, s, t, beta_1=0.9, beta_2=0.999, epsilon=1e-8, amsgrad=False, weight_decay=0.0):
    w = w - rate * weight_decay * w
    m, v = _moments(g, s, t, beta_1, beta_2)
    # As TensorFlow has it, epsilon stands beside the biased root.
    unbias = np.sqrt(1 - beta_2**t)
    s["top"] = np.maximum(s.get("top", 0), s["v"])
    root = np.sqrt(s["top"] if amsgrad else v * unbias**2)
    return w - rate * unbias * m / (root + epsilon)


def lamb(w, rate, g, s, t, beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=0.0, adapted=True):
    m, v = _moments(g, s, t, beta_1, beta_2)
    step = m / (np.sqrt(v) + epsilon)
    if not adapted:
        return w - rate * step
    step = step + weight_decay * w
    lengths = np.linalg.norm(w), np.linalg.norm(step)
    return w - rate * step * (lengths[0] / lengths[1] if min(lengths) > 0 else 1.0)


def lion(w, rate, g, s, t, beta_1=0.9, beta_2=0.99, weight_decay=0.0):
    m = s.get("m", np.zeros_like(g))
    s["m"] = beta_2 * m + (1 - beta_2) * g
    return w - rate * (np.sign(beta_1 * m + (1 - beta_1) * g) + weight_decay * w)


def rmsprop(w, rate, g, s, t, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False):
    s["v"] = rho * s.get("v", 0) + (1 - rho) * g**2
    s["m"] = rho * s.get("m", 0) + (1 - rho) * g
    spread = s["v"] - s["m"] ** 2 if centered else s["v"]
    s["b"] = momentum * s.get("b", 0) + rate * g / np.sqrt(spread + epsilon)
    return w - s["b"]


def nadam(w, rate, g, s, t, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    s["m"] = beta_1 * s.get("m", 0) + (1 - beta_1) * g
    s["v"] = beta_2 * s.get("v", 0) + (1 - beta_2) * g**2
    now, then = (beta_1 * (1 - 0.5 * 0.96**k) for k in (t, t + 1))
    s["u"] = s.get("u", 1.0) * now
    m = then * s["m"] / (1 - s["u"] * then) + (1 - now) * g / (1 - s["u"])
    return w - rate * m / (np.sqrt(s["v"] / (1 - beta_2**t)) + epsilon)


def adamax(w, rate, g, s, t, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    s["m"] = beta_1 * s.get("m", 0) + (1 - beta_1) * g
    s["top"] = np.maximum(beta_2 * s.get("top", 0), np.abs(g))
    return w - rate / (1 - beta_1**t) * s["m"] / (s["top"] + epsilon)


def adagrad(w, rate, g, s, t, initial_accumulator_value=0.1, epsilon=1e-7):
    s["v"] = s.get("v", initial_accumulator_value) + g**2
    return w - rate * g / np.sqrt(s["v"] + epsilon)


def adadelta(w, rate, g, s, t, rho=0.95, epsilon=1e-7):
    s["v"] = rho * s.get("v", 0) + (1 - rho) * g**2
    step = np.sqrt(s.get("d", 0) + epsilon) / np.sqrt(s["v"] + epsilon) * g
    s["d"] = rho * s.get("d", 0) + (1 - rho) * step**2
    return w - rate * step


def adafactor(w, rate, g, s, t, clip_threshold=1.0, beta_2_decay=-0.8):
    def size(x):
        return np.sqrt(np.mean(x**2))

    keep = 1 - t**beta_2_decay
    rows = keep * s.get("r", 0) + (1 - keep) * np.mean(g**2 + 1e-30, axis=-1)
    columns = keep * s.get("c", 0) + (1 - keep) * np.mean(g**2 + 1e-30, axis=-2)
    s.update(r=rows, c=columns)
    step = g / np.sqrt(np.outer(rows / rows.mean(), columns))
    step = step / max(1, size(step) / clip_threshold)
    return w - max(1e-3, size(w)) * min(rate, 1 / np.sqrt(t)) * step


def ftrl(w, rate, g, s, t, initial_accumulator_value=0.1, l1_strength=0.0, l2_strength=0.0):
    before = s.get("n", np.full_like(g, initial_accumulator_value))
    s["n"] = before + g**2
    s["z"] = s.get("z", 0) + g - (np.sqrt(s["n"]) - np.sqrt(before)) / rate * w
    shrunk = np.sign(s["z"]) * np.maximum(np.abs(s["z"]) - l1_strength, 0)
    return -shrunk / (np.sqrt(s["n"]) / rate + 2 * l2_strength)


def muon(w, rate, g, s, t, momentum=0.95, nesterov=True, weight_decay=0.0, ns_steps=5):
    w = w - rate * weight_decay * w
    s["m"] = momentum * s.get("m", 0) + g
    x = g + momentum * s["m"] if nesterov else s["m"]
    # The iteration acts on singular values alone: an odd polynomial of degree five.
    left, values, right = np.linalg.svd(x / np.linalg.norm(x), full_matrices=False)
    for _ in range(ns_steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return w - rate * 0.2 * np.sqrt(max(w.shape)) * (left * values) @ right


RULES = {
    "Momentum": momentum,
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adam,
    "Lamb": lamb,
    "Lion": lion,
    "RMSprop": rmsprop,
    "Nadam": nadam,
    "Adamax": adamax,
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "Adafactor": adafactor,
    "Ftrl": ftrl,
    "Muon": muon,
}


def trajectory(name, weight, gradients, rates, l1=0.0, l2=0.0, **keys):
    """The weight after each update, ``(updates, *shape)``, float64."""
    weight, state, after = np.array(weight, "float64"), {}, []
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        gradient = np.array(gradient, "float64") + l2 * weight + l1 * np.sign(weight)
        weight = RULES[name](weight, float(rate), gradient, state, t, **keys)
        after.append(weight)
    return np.stack(after)
