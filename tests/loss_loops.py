"""Losses on embeddings written out: float64, one anchor and one pair at a time.

Each takes embeddings ``e``, candidates ``r`` and, for every anchor, the lists of its positive and
negative candidates. ``e0`` and ``r0`` are ``e`` and ``r`` before a finite difference moved them.
"""

import math

import numpy as np


def pair_lists(label, reference_label=None, pair_mask=None):
    """Lists of positive and negative candidates of each row."""
    itself = reference_label is None
    reference_label = label if itself else reference_label
    positive, negative = [], []
    for i in range(len(label)):
        others = [
            j
            for j in range(len(reference_label))
            if not (itself and i == j) and (pair_mask is None or pair_mask[i][j])
        ]
        positive.append([j for j in others if int(reference_label[j]) == int(label[i])])
        negative.append([j for j in others if int(reference_label[j]) != int(label[i])])
    return positive, negative


def l2(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def squared(x, y):
    return l2(x, y) ** 2


def dot(x, y):
    return float(np.dot(x, y))


def cosine_distance(x, y):
    return 1 - dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))


DISTANCE = {"l2": l2, "squared": squared, "cosine": cosine_distance}


def mean(values):
    return sum(values) / len(values) if values else 0.0


def hinge(gap, margin):
    return math.log1p(math.exp(gap)) if margin is None else max(gap + margin, 0)


def triplet(e, r, positive, negative, margin=0.5, distance="l2", triplets="hard", **_):
    d = DISTANCE[distance]
    terms = []
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        to_p, to_n = [d(e[i], r[p]) for p in ps], [d(e[i], r[n]) for n in ns]
        if not to_p or not to_n:
            continue
        if triplets == "hard":
            terms.append(hinge(max(to_p) - min(to_n), margin))
        for p in to_p:
            if triplets == "semi_hard":
                beyond = [n for n in to_n if n > p]
                terms.append(hinge(p - (min(beyond) if beyond else max(to_n)), margin))
            if triplets == "all":
                terms += [h for n in to_n if (h := hinge(p - n, margin)) > 0]
    return mean(terms)


def triplet_angular_margin(
    e, r, positive, negative, margin=0.5, add_absolute=False, absolute_loss_weight=1.0,
    ap_value=0.9, an_value=0.5, **_,
):  # fmt: skip
    terms = []
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        if ps and ns:
            p, n = min(dot(e[i], r[p]) for p in ps), max(dot(e[i], r[n]) for n in ns)
            bounds = max(n - an_value, 0) + max(ap_value - p, 0)
            terms.append(max(n - p + margin, 0) + add_absolute * absolute_loss_weight * bounds)
    return mean(terms)


def contrastive(e, r, positive, negative, margin=0.5, distance="cosine", **_):
    terms = []
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        if distance == "cosine":
            terms += [1 - dot(e[i], r[p]) for p in ps]
            terms += [dot(e[i], r[n]) for n in ns if dot(e[i], r[n]) > margin]
        else:
            terms += [squared(e[i], r[p]) for p in ps]
            terms += [max(margin - l2(e[i], r[n]), 0) ** 2 for n in ns]
    return sum(terms) / len(e) if distance == "cosine" else mean(terms)


def multi_similarity(
    e, r, positive, negative, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1, e0=None, r0=None, **_
):
    total = 0.0
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        if not ps or not ns:
            continue
        nearest, farthest = max(dot(e0[i], r0[n]) for n in ns), min(dot(e0[i], r0[p]) for p in ps)
        ps = [p for p in ps if dot(e0[i], r0[p]) - epsilon < nearest]
        ns = [n for n in ns if dot(e0[i], r0[n]) + epsilon > farthest]
        total += math.log1p(sum(math.exp(-alpha * (dot(e[i], r[p]) - base)) for p in ps)) / alpha
        total += math.log1p(sum(math.exp(beta * (dot(e[i], r[n]) - base)) for n in ns)) / beta
    return total / len(e)


def circle(e, r, positive, negative, margin=0.4, gamma=80.0, e0=None, r0=None, **_):
    total = 0.0
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        product = 0.0
        for p in ps:
            for n in ns:
                p_weight = max(1 + margin - dot(e0[i], r0[p]), 0)
                n_weight = max(dot(e0[i], r0[n]) + margin, 0)
                product += math.exp(
                    gamma * n_weight * (dot(e[i], r[n]) - margin)
                    - gamma * p_weight * (dot(e[i], r[p]) - (1 - margin))
                )
        total += math.log1p(product)
    return total / len(e)


def pairwise_cosface(e, r, positive, negative, margin=0.35, gamma=64.0, **_):
    total = 0.0
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        total += math.log1p(
            sum(
                math.exp(gamma * (dot(e[i], r[n]) + margin - dot(e[i], r[p])))
                for p in ps
                for n in ns
            )
        )
    return total / len(e)


def lifted_structure(e, r, positive, negative, margin=1.0, **_):
    terms = []
    for i, ps in enumerate(positive):
        for j in ps:
            pushes = [math.exp(margin - l2(e[i], e[k])) for k in negative[i]]
            pushes += [math.exp(margin - l2(e[j], e[k])) for k in negative[j]]
            structured = math.log(sum(pushes)) + l2(e[i], e[j]) if pushes else 0.0
            terms.append(max(structured, 0) ** 2 / 2)
    return mean(terms)


def n_pairs(e, r, positive, negative, reg_lambda=0.01, **_):
    waiting, anchors, partners, group = {}, [], [], {}
    for i in range(len(e)):
        key = min([i, *positive[i]])  # the first row of the label
        group[i] = key
        if key in waiting:
            anchors.append(waiting.pop(key))
            partners.append(i)
        else:
            waiting[key] = i
    terms, used = [], []
    for a, own in zip(anchors, partners, strict=True):
        if all(group[p] == group[a] for p in partners):
            continue
        logits = [dot(e[a], e[p]) for p in partners]
        log_sum = math.log(sum(math.exp(v) for v in logits))
        terms.append(
            log_sum
            - mean([v for v, p in zip(logits, partners, strict=True) if group[p] == group[a]])
        )
        used += [a, own]
    return mean(terms) + reg_lambda / 2 * mean([dot(e[i], e[i]) for i in used])


def supcon(e, r, positive, negative, temperature=0.07, base_temperature=0.07, **_):
    terms = []
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        if ps and ns:
            log_sum = math.log(sum(math.exp(dot(e[i], r[k]) / temperature) for k in ps + ns))
            terms.append(-mean([dot(e[i], r[p]) / temperature - log_sum for p in ps]))
    return temperature / base_temperature * mean(terms)


def soft_nearest_neighbor(e, r, positive, negative, temperature=1.0, distance="squared", **_):
    d, terms = DISTANCE[distance], []
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        if ps and ns:
            near = sum(math.exp(-d(e[i], r[p]) / temperature) for p in ps)
            far = sum(math.exp(-d(e[i], r[n]) / temperature) for n in ns)
            terms.append(-math.log(near / (near + far)))
    return mean(terms)


def smooth_ap(e, r, positive, negative, temperature=0.01, **_):
    terms = []
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        if not ps or not ns:
            continue
        precisions = []
        for p in ps:
            before = {
                j: 0.5 + 0.5 * math.tanh((dot(e[i], e[j]) - dot(e[i], e[p])) / temperature / 2)
                for j in ps + ns
                if j != p
            }
            among_positives = 1 + sum(v for j, v in before.items() if j in ps)
            precisions.append(among_positives / (1 + sum(before.values())))
        terms.append(1 - mean(precisions))
    return mean(terms)


def eml(e, r, positive, negative, beta=1e5, **_):
    terms = []
    for i, (ps, ns) in enumerate(zip(positive, negative, strict=True)):
        if ps and ns:
            theta = mean([math.exp(squared(e[i], r[p])) for p in ps])
            theta *= mean([math.exp(-squared(e[i], r[n])) for n in ns])
            terms.append(math.log1p(beta * theta) / math.log1p(beta))
    return mean(terms)


def margin_sample_mining(e, r, positive, negative, margin=0.1, **_):
    to_p = [squared(e[i], r[p]) for i, ps in enumerate(positive) for p in ps]
    to_n = [squared(e[i], r[n]) for i, ns in enumerate(negative) for n in ns]
    return max(max(to_p) - min(to_n) + margin, 0) if to_p and to_n else 0.0


def slope(function, x, step=1e-5):
    """Central differences of a scalar function of an array."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        gradient[at] = (function(up) - function(down)) / (2 * step)
    return gradient
